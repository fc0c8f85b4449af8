/** Pictures: the pixels that a rule makes of them, as tflite/testdata says. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { resize } from "../dist/pixels.js";
import { fromBase64, json } from "./testdata.mjs";

test("pictures become the pixels that training saw, within one level", () => {
  const { scaled, tolerance } = json("pixels.json");
  for (const { rule, picture, expected } of scaled) {
    const [height, width] = picture.shape;
    const found = resize({ data: fromBase64(picture.pixels), height, width }, rule);
    const wanted = fromBase64(expected.pixels);
    assert.equal(found.length, wanted.length);
    found.forEach((v, i) => assert.ok(Math.abs(v - wanted[i]) <= tolerance, `${v} ${wanted[i]}`));
  }
});

const RULE = { height: 2, width: 2, channels: 3, margin: 1 };

test("what is transparent lies over white", () => {
  const data = Uint8Array.from({ length: 16 }, (_, i) => [200, 100, 0, 0][i % 4]);
  assert.deepEqual([...resize({ data, width: 2, height: 2 }, RULE)], Array(12).fill(255));
  data.forEach((_, i) => i % 4 === 3 && (data[i] = 51)); // a fifth
  assert.deepEqual([...resize({ data, width: 2, height: 2 }, RULE)].slice(0, 3), [244, 224, 204]);
});

test("gray becomes RGB, and RGB gray", () => {
  const gray = { data: Uint8Array.of(1, 2, 3, 4), width: 2, height: 2 };
  assert.deepEqual([...resize(gray, RULE)], [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
  const color = { data: Uint8Array.of(10, 20, 30), width: 1, height: 1 };
  const rule = { height: 1, width: 1, channels: 1, margin: 1 };
  assert.deepEqual([...resize(color, rule)], [18]);
});

test("pictures that are none are refused", () => {
  const data = new Uint8Array(12);
  for (const picture of [
    { data, width: 0, height: 2 },
    { data, width: 2, height: 3 },
    { data, width: 1.5, height: 2 },
    { data, width: 2 ** 20, height: 2 ** 20 },
  ]) {
    assert.throws(() => resize(picture, RULE), RangeError);
  }
});

test("a rule may leave out what has a default, and is refused if it is none", () => {
  const picture = { data: Uint8Array.from({ length: 60 }, (_, i) => 4 * i), width: 5, height: 4 };
  const all = { ...RULE, resize: "cover", filter: "bilinear", antialias: true };
  const { margin, ...short } = RULE;
  assert.deepEqual(resize(picture, short), resize(picture, { ...all, margin }));
  const wrong = [null, "cover", {}, { ...RULE, height: 0 }, { ...RULE, width: "2" },
    { ...RULE, height: 2.5 }, { ...RULE, channels: 2 }, { ...RULE, margin: NaN },
    { ...RULE, margin: 0.5 }, { ...RULE, filter: "nearest" }, { ...RULE, size: 2 }];
  for (const rule of wrong) {
    assert.throws(() => resize(picture, rule), /rule.* must .*Received: /, JSON.stringify(rule));
  }
});
