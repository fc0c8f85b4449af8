/** Reads tflite/testdata, which programs in every language are held to. */

import { readFileSync } from "node:fs";

export const FOLDER = new URL("../../testdata/", import.meta.url);

export const bytes = (name) => new Uint8Array(readFileSync(new URL(name, FOLDER)));
export const json = (name) => JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"));
export const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  uint8: Uint8Array,
  int32: Int32Array,
};

/** The values of an array, and its shape. */
export function unpack({ shape, dtype, base64 }) {
  return { shape, values: new ARRAYS[dtype](fromBase64(base64).buffer) };
}

/** One row of an array: its values. */
export function row({ shape, values }, index) {
  const size = shape.slice(1).reduce((product, n) => product * n, 1);
  return values.slice(index * size, (index + 1) * size);
}

/** The cases of answers.json, with arrays unpacked and the images by input. */
export function answers() {
  return json("files/answers.json").cases.map((one) => {
    const inputs = Object.entries(one.inputs).map(([name, packed]) => [name, unpack(packed)]);
    const images = one.expected.map((_, i) =>
      Object.fromEntries(inputs.map(([name, array]) => [name, row(array, i)])),
    );
    return { ...one, images, logits: unpack(one.logits), costs: unpack(one.costs) };
  });
}

export function near(found, expected, tolerance, what = "") {
  const scale = 1 + Math.abs(expected);
  if (!(found === expected || Math.abs(found - expected) <= tolerance * scale)) {
    throw new Error(`${what}: ${found} is not within ${tolerance} of ${expected}`);
  }
}
