/**
 * Pictures as a network sees them: the rule that is written into the file.
 *
 * The steps are those of `pixels.py`, from the decoded picture on: what is transparent lies over
 * white, RGB or gray, scaled to cover, bilinear with antialiasing, the middle cut out. The result
 * is within one level of 255 of what training saw.
 */

import { brief, isObject, type Json, repr } from "./python.js";

const SIDE = 2 ** 14; // of what a rule asks for
const MARGIN = 16;
const PIXELS = 2 ** 27; // of a picture: a camera of 108 megapixels is below
const WHITE = 255; // what transparent pixels lie over

/** How pictures become pixels. */
export interface PixelRule {
  height: number;
  width: number;
  /** 3 for RGB, or 1 for gray. */
  channels: number;
  resize?: "cover";
  filter?: "bilinear";
  antialias?: true;
  /** Pictures are scaled until they cover this many times the size: once, if it is left out. */
  margin?: number;
}

/** Pixels row by row, in 1 (gray), 3 (RGB) or 4 (RGBA) channels; an `ImageData` is one. */
export interface Picture {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** Checks a rule that was read from a file; throws in the words of `pixels.py`. */
export function checkRule(found: Json): true {
  if (!isObject(found)) throw new TypeError("a rule must be an object");
  const { height, width, channels, margin = 1, resize, filter, antialias } = {
    resize: "cover", filter: "bilinear", antialias: true, ...found,
  } as Record<string, Json>;
  const must = ["height", "width", "channels"];
  const may = ["resize", "filter", "antialias", "margin"];
  const names = Object.keys(found);
  if (!must.every((key) => key in found) || names.some((key) => ![...must, ...may].includes(key))) {
    throw new RangeError(
      `A rule must have ${must.join(", ")}, and may have ${may.join(", ")}. ` +
        `Received: one with ${brief(names.join(", "), 80)}`,
    );
  }
  for (const [name, side] of [["height", height], ["width", width]] as const) {
    if (typeof side !== "bigint" || side < 1n || side > SIDE) {
      throw new RangeError(
        `\`${name}\` of a rule must be an integer from 1 to ${SIDE}. ` +
          `Received: ${name}=${brief(repr(side), 80)}`,
      );
    }
  }
  if (channels !== 1n && channels !== 3n) {
    throw new RangeError(
      "`channels` of a rule must be 3, for RGB, or 1, for gray. " +
        `Received: channels=${brief(repr(channels), 80)}`,
    );
  }
  const factor = typeof margin === "bigint" || typeof margin === "number" ? Number(margin) : NaN;
  if (!(1 <= factor && factor <= MARGIN)) {
    throw new RangeError(
      `\`margin\` of a rule must be a number from 1 to ${MARGIN}. ` +
        `Received: margin=${brief(repr(margin), 80)}`,
    );
  }
  if (resize !== "cover" || filter !== "bilinear" || antialias !== true) {
    throw new RangeError(
      'A rule must have resize="cover", filter="bilinear" and antialias=True. ' +
        `Received: resize=${brief(repr(resize), 80)}, filter=${brief(repr(filter), 80)}, ` +
        `antialias=${brief(repr(antialias), 80)}`,
    );
  }
  return true;
}

/**
 * Scales and cuts a picture as a rule says.
 *
 * @returns Pixels of the rule's height, width and channels, row by row.
 * @throws {RangeError} If the picture is empty, too large, or of another number of channels, or
 *   there is no such rule.
 */
export function resize(picture: Picture, rule: PixelRule): Uint8Array {
  if (!isObject(rule as unknown as Json)) {
    throw new TypeError(
      `\`rule\` must be an object, as \`info.pixels\` is. Received: rule=${String(rule)}`,
    );
  }
  const { width, height } = picture;
  checkPicture(picture);
  checkRule(exact(rule));
  const { channels, margin = 1 } = rule;
  const byRows = rule.height * width >= rule.width * height;
  const ratio: [number, number] = byRows ? [rule.height, height] : [rule.width, width];
  const rows = weights(height, ...kept(height, rule.height, margin, ...ratio), rule.height);
  const columns = weights(width, ...kept(width, rule.width, margin, ...ratio), rule.width);
  const first = rows[0].from; // of the picture's rows, those alone that are needed
  const last = Math.max(...rows.map(({ from, weights }) => from + weights.length));
  const source = inChannels(picture, channels, first, last);
  const wide = new Uint8Array((last - first) * rule.width * channels);
  for (let y = 0; y < last - first; y++) {
    columns.forEach(({ from, weights }, x) => {
      for (let c = 0; c < channels; c++) {
        let total = 0;
        for (let i = 0; i < weights.length; i++) {
          total += weights[i] * source[(y * width + from + i) * channels + c];
        }
        wide[(y * rule.width + x) * channels + c] = total + 0.5;
      }
    });
  }
  const stride = rule.width * channels;
  const found = new Uint8Array(rule.height * stride);
  rows.forEach(({ from, weights }, y) => {
    for (let x = 0; x < stride; x++) {
      let total = 0;
      for (let i = 0; i < weights.length; i++) {
        total += weights[i] * wide[(from - first + i) * stride + x];
      }
      found[y * stride + x] = total + 0.5;
    }
  });
  return found;
}

/** A rule as JSON has it, integers told apart. */
function exact(rule: PixelRule): Json {
  const entries = Object.entries(rule).map(([key, value]) =>
    [key, Number.isInteger(value) ? BigInt(value as number) : (value as Json)] as const);
  return Object.fromEntries(entries);
}

export function checkSize(width: number, height: number): void {
  const whole = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!whole || width * height > PIXELS) {
    throw new RangeError(
      `A picture must have 1 to ${PIXELS} pixels. Received: ${width}x${height}`,
    );
  }
}

function checkPicture({ data, width, height }: Picture): void {
  checkSize(width, height);
  if (![1, 3, 4].some((channels) => data.length === channels * width * height)) {
    throw new RangeError(
      "A picture must have 1, 3 or 4 numbers per pixel. " +
        `Received: ${data.length} numbers for ${width}x${height} pixels`,
    );
  }
}

/** Where the kept part of a side begins and ends, in pixels of the picture. */
function kept(
  side: number,
  wanted: number,
  margin: number,
  numerator: number,
  denominator: number,
): [number, number] {
  const scaled = Math.max(wanted, Math.floor((margin * numerator * side) / denominator + 0.5));
  const first = Math.floor((scaled - wanted) / 2);
  return [(first * side) / scaled, ((first + wanted) * side) / scaled];
}

/** The weights of a side's pixels in each of `size` pixels, and the first that has one. */
function weights(side: number, begin: number, end: number, size: number) {
  const scale = (end - begin) / size;
  const reach = Math.max(1, scale);
  return Array.from({ length: size }, (_, i) => {
    const center = begin + (i + 0.5) * scale;
    const from = Math.max(0, Math.floor(center - reach + 0.5));
    const to = Math.min(side, Math.floor(center + reach + 0.5));
    const found = Array.from({ length: to - from }, (_, j) =>
      Math.max(0, 1 - Math.abs(from + j + 0.5 - center) / reach));
    const total = found.reduce((sum, weight) => sum + weight, 0);
    return { from, weights: found.map((weight) => weight / total) };
  });
}

/** Some rows of a picture in RGB or gray, nothing of it transparent. */
function inChannels(
  { data, width, height }: Picture,
  channels: number,
  first: number,
  last: number,
): Uint8Array | Uint8ClampedArray {
  const given = data.length / (width * height);
  const rows = data.subarray(first * width * given, last * width * given);
  if (given === channels) return rows;
  const found = new Uint8Array((last - first) * width * channels);
  const over = (alpha: number, v: number) =>
    alpha === 255 ? v : Math.floor((alpha * v + (255 - alpha) * WHITE) / 255 + 0.5);
  const [green, blue] = given === 1 ? [0, 0] : [1, 2];
  for (let i = 0; i < (last - first) * width; i++) {
    const at = given * i;
    const alpha = given === 4 ? rows[at + 3] : 255;
    const [r, g, b] = [rows[at], rows[at + green], rows[at + blue]];
    if (channels === 1) {
      const gray = 19595 * over(alpha, r) + 38470 * over(alpha, g) + 7471 * over(alpha, b);
      found[i] = (gray + 32768) >> 16;
    } else {
      found[3 * i] = over(alpha, r);
      found[3 * i + 1] = over(alpha, g);
      found[3 * i + 2] = over(alpha, b);
    }
  }
  return found;
}
