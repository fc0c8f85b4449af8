/** Checks the values of a file's `info`, in the words of `anytime_tflite`. */

import { checkRule } from "./pixels.js";
import { brief, isObject, type Json, repr, tuple } from "./python.js";
import { CONFIDENCES, type Network } from "./rule.js";

/** Types of a network's inputs, by name: the letter of their tensors. */
export const DTYPES: Record<string, string> = {
  float32: "f", float16: "h", uint8: "u", int8: "c", int16: "w", int32: "i", int64: "l", bool: "b",
};
const EXITS = 1000;

type Found = Record<string, Json>;
type Check = (value: Json, info: Found) => boolean;

/** Returns what is wrong with the info, or `null`. */
export function wrong(info: Found): string | null {
  const checks = info.version === 2n ? FITS : { ...FITS, ...FITS_ADDED };
  const missing = Object.keys(checks).filter((key) => !(key in info)).sort();
  if (missing.length) return `no ${missing.join(", ")}`;
  for (const [key, fits] of Object.entries(checks)) {
    const shown = `${key}=${brief(repr(info[key]))}`;
    try {
      if (!fits(info[key], info)) return shown;
    } catch (error) {
      return `${shown} (${brief((error as Error).message, 80)})`;
    }
  }
  return null;
}

/** Whether a value of JSON is a number that computes as a float. */
function isNumber(value: Json | undefined): value is number | bigint {
  if (typeof value === "bigint") return true; // its digits were bounded
  return typeof value === "number" && Number.isFinite(value) && Math.abs(value) < 1e300;
}

function isInteger(value: Json | undefined, least: bigint): value is bigint {
  return typeof value === "bigint" && value >= least;
}

function length(value: Json): number {
  return (value as Json[]).length;
}

const limitsFit: Check = (limits, info) => {
  const numbers =
    Array.isArray(limits) &&
    limits.every((t) => isNumber(t) || t === "Infinity" || t === "-Infinity");
  return numbers && limits.length > 0 && limits.length <= EXITS &&
    limits.length === length(info.thresholds);
};

const exitsFit: Check = (exits, info) => {
  if (!Array.isArray(exits) || !exits.length) return false;
  const numbers = exits.filter((k) => isInteger(k, 0n));
  const rising = numbers.every((k, i) => i === 0 || numbers[i - 1] < k);
  const inside = numbers.length === exits.length && numbers[numbers.length - 1] <
    length(info.thresholds);
  return inside && rising;
};

function numbersFit(count: number, numbers: Json | undefined, above = -Infinity): boolean {
  return (
    Array.isArray(numbers) &&
    numbers.length === count &&
    numbers.every((n) => isNumber(n) && n > above)
  );
}

const stoppingFits: Check = (confidence, info) => {
  const learned = confidence === "learned";
  if (!learned && !(typeof confidence === "string" && Object.hasOwn(CONFIDENCES, confidence))) {
    return false;
  }
  const exits = learned ? length(info.thresholds) : 0;
  return (stoppingNetworks(info)?.length ?? 0) === exits;
};

const namesFit: Check = (names) =>
  names === null || (Array.isArray(names) && names.every((name) => typeof name === "string"));

const preprocessingFits: Check = (preprocessing) => {
  if (preprocessing === null) return true;
  const [mean, std] = [item(preprocessing, "mean"), item(preprocessing, "std")];
  if (!Array.isArray(mean) || !mean.length) return false;
  return numbersFit(mean.length, mean) && numbersFit(mean.length, std, 0);
};

const agreementFits: Check = (agreement) => {
  if (agreement === null) return true;
  const [members, share] = [item(agreement, "members"), item(agreement, "share")];
  return atLeast2(members) && isNumber(share) && 0 < share && share <= 1;
};

function atLeast2(number: Json): boolean {
  return isInteger(number, 2n) && number < 2 ** 31;
}

// what each key must be
const FITS: Record<string, Check> = {
  thresholds: limitsFit,
  exits: exitsFit,
  confidence: stoppingFits,
  temperatures: (value, info) => numbersFit(length(info.thresholds), value, 0),
  patience: (value) => value === null || atLeast2(value),
  class_names: namesFit,
  preprocessing: preprocessingFits,
  stage_ms: (value, info) => value === null || numbersFit(length(info.exits), value, 0),
  sha256: (value) => typeof value === "string" && /^[0-9a-f]{64}$/.test(value),
};
const FITS_ADDED: Record<string, Check> = {
  log_odds: limitsFit,
  agreement: agreementFits,
  inputs: (value) => inputsFit(value),
  pixels: (value) => value === null || Boolean(checkRule(value)),
  macs: (value, info) =>
    numbersFit(length(info.exits), value) && (value as (number | bigint)[]).every((n) => n >= 0),
};

/** The keys that version 3 added: in files of version 2 they are not read. */
export const ADDED = Object.keys(FITS_ADDED).filter((key) => key !== "macs");

function inputsFit(inputs: Json): boolean {
  if (!Array.isArray(inputs)) return false;
  const names = new Set<Json>();
  for (const one of inputs) {
    if (!isObject(one) || Object.keys(one).sort().join() !== "dtype,name,shape") return false;
    const { name, dtype, shape } = one;
    const known = typeof dtype === "string" && Object.hasOwn(DTYPES, dtype);
    const sized = Array.isArray(shape) && shape.every((size) => isInteger(size, 1n));
    if (typeof name !== "string" || !known || !sized) return false;
    names.add(name);
  }
  return inputs.length > 0 && names.size === inputs.length;
}

/** An entry of a dictionary; throws in Python's words if there is none. */
function item(value: Json, key: string): Json {
  if (isObject(value)) {
    if (!(key in value)) throw new Error(repr(key));
    return value[key];
  }
  if (Array.isArray(value)) throw new Error("list indices must be integers or slices, not str");
  if (typeof value === "string") throw new Error("string indices must be integers, not 'str'");
  const type = typeof value === "boolean" ? "bool" : typeof value === "bigint" ? "int" : "float";
  throw new Error(`'${type}' object is not subscriptable`);
}

/**
 * The networks of a learned policy, one per exit, or `null` if there are none; throws if they are
 * damaged. The last exit, which always stops, has none.
 */
export function stoppingNetworks(info: Found): (Network | null)[] | null {
  const packed = info.stopping ?? null;
  if (packed === null) return null;
  if (!Array.isArray(packed)) throw new Error("stopping is no list");
  const networks: (Network | null)[] = [];
  for (const layers of packed) {
    if (!Array.isArray(layers)) throw new Error("a stopping network is no list");
    const network = layers.map((layer) => {
      const [kernel, bias] = [numbers(item(layer, "kernel")), numbers(item(layer, "bias"))];
      const shape = item(layer, "shape");
      const sized = Array.isArray(shape) && shape.length === 2 &&
        shape.every((size) => isInteger(size, -1n));
      let [rows, columns] = sized ? shape.map(Number) : [-1, -1];
      if (rows === -1) rows = kernel.length / columns; // -1 stands for what is left
      else if (columns === -1) columns = kernel.length / rows;
      return { kernel, bias, rows, columns };
    });
    const fits = network.every(
      ({ kernel, bias, rows, columns }) =>
        kernel.length === rows * columns && rows % 1 === 0 && rows > 0 && columns > 0 &&
        bias.length === columns &&
        kernel.every(Number.isFinite) && bias.every(Number.isFinite),
    );
    const chained = network.length === 3 && network[0].columns === network[1].rows &&
      network[1].columns === network[2].rows && network[2].columns === 2;
    if (!fits || !chained) {
      const shapes = network.map(({ rows, columns }) => tuple([rows, columns]));
      throw new Error(`stopping networks of shapes [${shapes.join(", ")}]`);
    }
    networks.push(network);
  }
  return [...networks, null];
}

/** Float32 numbers, little-endian, in base64. */
function numbers(text: Json): Float64Array {
  if (typeof text !== "string") throw new Error("numbers must be text, in base64");
  const view = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  if (view.byteLength % 4) throw new Error("buffer size must be a multiple of element size");
  return Float64Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
