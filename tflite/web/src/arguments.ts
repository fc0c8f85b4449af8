/** Checks what a caller gives: images and thresholds. */

import type { Tensors } from "./backend.js";
import type { Info, Input } from "./file.js";
import { type Picture, type PixelRule, resize } from "./pixels.js";
import { tuple } from "./python.js";
import { toLogOdds } from "./rule.js";
import { type Drawable, drawn, isDrawable, isPicture } from "./sources.js";

/** Numbers of one input of the network: pixels (Uint8), standardized floats, or integers. */
export type Numbers =
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

/** What `classify` takes but for a `Blob`, which must be decoded first. */
export type Image = Numbers | Picture | Drawable | { [input: string]: Numbers };

const FAR = 10; // times the range from black to white

/** An input that is no picture: the array that its tensor is filled from. */
const ARRAYS = {
  float32: Float32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
} as const;

const LIMITS: Record<string, [number | bigint, number | bigint]> = {
  uint8: [0, 255],
  int8: [-128, 127],
  int16: [-(2 ** 15), 2 ** 15 - 1],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
  bool: [0, 1],
};

function isNumbers(value: unknown): value is Numbers {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

function isDictionary(value: unknown): value is object {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function show(value: unknown): string {
  if (isNumbers(value)) return `a ${value.constructor.name} of ${value.length} numbers`;
  if (typeof value !== "object" || value === null) return typeof value;
  return `a ${value.constructor?.name ?? "dictionary"}`;
}

/** Makes the network's inputs of what a caller gives. */
export class Preparer {
  readonly #rule: PixelRule | null;
  readonly #range: [number, number] | null;

  constructor(
    readonly info: Info,
    readonly inputs: Input[],
  ) {
    this.#rule = info.pixels ?? this.#ownSize();
    this.#range = this.#inputRange();
    const odd = inputs.find((input) => !(input.dtype in ARRAYS));
    if (odd) throw new Error(`its input '${odd.name}' is of ${odd.dtype}`);
  }

  /** A batch of one of each of the network's inputs. */
  prepare(image: Image): Tensors {
    const { inputs } = this;
    let given: Map<string, unknown>;
    if (isNumbers(image) || isPicture(image) || !isDictionary(image)) {
      if (inputs.length > 1) {
        const names = inputs.map((input) => input.name).join(", ");
        throw new TypeError(
          `\`image\` must be an object with the inputs ${names}. Received: ${show(image)}`,
        );
      }
      given = new Map([[inputs[0].name, image]]);
    } else {
      given = new Map(Object.entries(image));
      const complete = given.size === inputs.length && inputs.every(({ name }) => given.has(name));
      if (!complete) {
        throw new RangeError(
          `\`image\` must be an object with the inputs ${inputs.map(({ name }) => name)}. ` +
            `Received: one with ${[...given.keys()]}`,
        );
      }
    }
    return new Map(inputs.map((input) => [input.name, this.#prepared(input, given)]));
  }

  #prepared(input: Input, given: Map<string, unknown>): ArrayBufferView {
    const called = this.inputs.length === 1 ? "`image`" : `\`image.${input.name}\``;
    let value = given.get(input.name);
    if (isDrawable(value)) value = drawn(value);
    if (isPicture(value)) value = this.#scaled(value, called);
    if (!isNumbers(value)) {
      throw new TypeError(`${called} must be a typed array or a picture. Received: ${show(value)}`);
    }
    const size = input.shape.reduce((product, n) => product * n, 1);
    if (value.length !== size) {
      throw new RangeError(
        `${called} must be of shape ${tuple(input.shape)}, ${size} numbers. ` +
          `Received: ${value.length} numbers`,
      );
    }
    if (input.dtype !== "float32") return integers(input, value, called);
    if (value instanceof Uint8Array || value instanceof Uint8ClampedArray) {
      return this.#standardized(value, called);
    }
    if (!(value instanceof Float32Array || value instanceof Float64Array)) {
      throw new TypeError(`${called} must be of uint8 or floats. Received: ${show(value)}`);
    }
    return this.#floats(value, called);
  }

  /** `(pixel / 255 - mean) / std`, each step rounded to float32. */
  #standardized(pixels: Uint8Array | Uint8ClampedArray, called: string): Float32Array {
    const { preprocessing } = this.info;
    if (!preprocessing) {
      throw new TypeError(
        `${called} must be of floats: the file does not say how pixels are standardized. ` +
          "Received: uint8",
      );
    }
    const mean = Float32Array.from(preprocessing.mean);
    const std = Float32Array.from(preprocessing.std);
    const { fround } = Math;
    const channels = mean.length;
    return Float32Array.from(pixels, (pixel, i) => {
      const c = i % channels;
      return fround(fround(pixel / 255) - mean[c]) / std[c];
    });
  }

  /** A copy: the image may wait for others, and the caller's array change meanwhile. */
  #floats(given: Float32Array | Float64Array, called: string): Float32Array {
    const values = Float32Array.from(given);
    let [low, high, finite] = [Infinity, -Infinity, true];
    for (const value of values) {
      finite &&= Number.isFinite(value);
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!finite) {
      throw new RangeError(`${called} must be finite in float32. Received: NaN or infinite values`);
    }
    if (this.#range && !(this.#range[0] <= low && high <= this.#range[1])) {
      throw new RangeError(
        `${called} must be pixels of uint8, or floats standardized as the file says. ` +
          `Received: floats from ${low} to ${high}, which no pixel becomes`,
      );
    }
    return values;
  }

  #scaled(picture: Picture, called: string): Uint8Array {
    const rule = this.#rule;
    const own = this.info.pixels ? true
      : picture.width === rule?.width && picture.height === rule.height;
    if (!rule || !own) {
      throw new RangeError(
        `${called} must be of shape ${tuple(this.inputs[0].shape)}: the file does not say how ` +
          `other pictures are scaled. Received: a picture of ${picture.width}x${picture.height}`,
      );
    }
    return resize(picture, rule);
  }

  /** Without a rule in the file: that which leaves pictures of the network's own size alone. */
  #ownSize(): PixelRule | null {
    const [height, width, channels, ...more] = this.inputs[0].shape;
    const fits = this.inputs.length === 1 && !more.length && (channels === 1 || channels === 3);
    if (!fits) return null;
    return { height, width, channels };
  }

  /**
   * The least and the greatest float of an image; `null` if the file does not say.
   *
   * Pixels become numbers between those of black and white. Floats may go beyond, but not by many
   * times that range, as do pixels that were not standardized.
   */
  #inputRange(): [number, number] | null {
    const { preprocessing } = this.info;
    if (!preprocessing) return null;
    const { mean, std } = preprocessing;
    const black = Math.min(...mean.map((m, c) => -m / std[c]));
    const white = Math.max(...mean.map((m, c) => (1 - m) / std[c]));
    const margin = FAR * (white - black);
    return [black - margin, white + margin];
  }
}

/** Integers, or booleans, in the type of the network's input. */
function integers({ dtype }: Input, values: Numbers, called: string): ArrayBufferView {
  if (values instanceof Float32Array || values instanceof Float64Array) {
    throw new TypeError(`${called} must be of integers, ${dtype}. Received: ${show(values)}`);
  }
  const [least, most] = LIMITS[dtype];
  for (const value of values) {
    if (value < least || value > most) {
      throw new RangeError(
        `${called} must be of integers that ${dtype} holds. Received: one that is ${value}`,
      );
    }
  }
  if (dtype === "int64") return BigInt64Array.from(values as Iterable<number>, BigInt);
  const kind = ARRAYS[dtype as keyof typeof ARRAYS] as Uint8ArrayConstructor;
  return kind.from(values as Iterable<number | bigint>, Number);
}

/** One threshold per stage of the file: in log-odds, but for version 2. */
export function stageThresholds(info: Info, given?: ArrayLike<number> | null): number[] {
  const isPlain = info.version < 3;
  const own = isPlain ? info.thresholds : info.log_odds!;
  if (given === undefined || given === null) return info.exits.map((k) => own[k]);
  const checked = checkThresholds(info, given);
  return info.exits.map((k) => {
    if (isPlain) return checked[k];
    // the file's own keep the digits that the users' unit does not show
    return checked[k] === info.thresholds[k] ? own[k] : toLogOdds(info.confidence, checked[k]);
  });
}

function checkThresholds(info: Info, thresholds: ArrayLike<number>): number[] {
  const { thresholds: written, exits } = info;
  const total = written.length;
  const isList = typeof thresholds === "object" && typeof thresholds.length === "number";
  const found = isList ? Array.from(thresholds) : [];
  const numbers = isList && found.every((t) => typeof t === "number");
  if (!numbers || found.length !== total || found.some(Number.isNaN)) {
    throw new (numbers ? RangeError : TypeError)(
      `\`thresholds\` must be ${total} numbers, one per exit. Received: thresholds=` +
        (isList ? `[${found.map(String).join(", ")}]` : String(thresholds)),
    );
  }
  // behind an exit where every image leaves, and at the last, nothing is looked at
  const ends = exits.find((k) => found[k] === -Infinity) ?? total - 1;
  const closed = found.flatMap((t, k) =>
    k < ends && !exits.includes(k) && t < Infinity && t !== written[k] ? [k] : [],
  );
  if (closed.length) {
    throw new RangeError(
      `\`thresholds\` must be Infinity for exits ${closed.join(", ")}, which were closed when ` +
        `the file was written. Received: thresholds=[${found.join(", ")}]`,
    );
  }
  return found;
}

export function checkDeadline(deadlineMs?: number | null): number {
  const deadline = deadlineMs ?? Infinity;
  if (typeof deadline !== "number" || !(deadline >= 0)) {
    throw new (typeof deadline === "number" ? RangeError : TypeError)(
      "`deadlineMs` must be a number of at least 0, or undefined. " +
        `Received: deadlineMs=${String(deadlineMs)}`,
    );
  }
  return deadline;
}

export function checkPatience(info: Info, patience?: number | null): number | null {
  if (patience === undefined || patience === null) return info.patience;
  if (!Number.isSafeInteger(patience) || patience < 2) {
    throw new (typeof patience === "number" ? RangeError : TypeError)(
      "`patience` must be an integer of at least 2, or undefined. " +
        `Received: patience=${String(patience)}`,
    );
  }
  return patience;
}

/** Checks the names of options: one that nobody knows would be left out silently. */
export function checkNames(options: object, ...known: string[]): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    const given = typeof options === "object" ? show(options) : String(options);
    throw new TypeError(`Options must be an object with ${known.join(", ")}. Received: ${given}`);
  }
  const unknown = Object.keys(options).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new TypeError(`Options must be among ${known.join(", ")}. Received: ${unknown.join(", ")}`);
  }
  checkSignal((options as { signal?: AbortSignal | null }).signal);
}

function checkSignal(signal?: AbortSignal | null): void {
  if (signal !== undefined && signal !== null && typeof signal.aborted !== "boolean") {
    throw new TypeError(
      "`signal` must be an AbortSignal, as `signal` of an AbortController is. " +
        `Received: ${show(signal)}`,
    );
  }
}
