/** Files: what they say of themselves, and which are refused in which words. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { digest, sha256 } from "../dist/digest.js";
import { checkContent, readInfo } from "../dist/file.js";
import { FileError } from "../dist/errors.js";
import { parse, repr } from "../dist/python.js";
import { answers, bytes, fromBase64, json } from "./testdata.mjs";

const KEY = new TextEncoder().encode('"sha256": "');

/** The file with the edits of a case of damage.json. */
function edited(content, { write = [], cut, reseal }) {
  const found = Uint8Array.from(content);
  for (const { at, base64 } of write) found.set(fromBase64(base64), at);
  if (reseal) {
    const text = Buffer.from(found.buffer);
    const at = text.indexOf(Buffer.from(KEY)) + KEY.length;
    text.write("0".repeat(64), at);
    text.write(createHash("sha256").update(text).digest("hex"), at);
  }
  return cut === undefined ? found : found.subarray(0, cut);
}

/** The words with which a file is refused, or `null`. */
async function refusal(content) {
  try {
    await checkContent(content, "PATH");
    return null;
  } catch (error) {
    assert.ok(error instanceof FileError, error.stack);
    return error.message;
  }
}

// what follows in parentheses is each language's own
const common = (words) => words?.replace(/(info is JSON\. Received: path=PATH) \(.*\)$/s, "$1");

test("damage is refused in the words of every language", async () => {
  const { file, cases } = json("files/damage.json");
  const content = bytes(`files/${file}`);
  for (const one of cases) {
    const found = await refusal(edited(content, one));
    assert.equal(common(found ?? undefined), common(one.refusal ?? undefined), one.what);
  }
});

test("every tiny file opens, and says what it is", async () => {
  for (const one of answers()) {
    const info = await readInfo(bytes(`files/${one.file}`));
    assert.equal(info.sha256, one.sha256);
    assert.equal(info.version, 3);
    assert.equal(info.thresholds.at(-1), -Infinity);
    assert.ok(info.log_odds.every((t) => typeof t === "number" && !Number.isNaN(t)));
    assert.equal(info.exits.length, one.logits.shape[1]);
  }
});

test("files of version 2 open", async () => {
  const folder = "../../tests/data/before_layout/";
  for (const name of ["float32", "int8", "learned", "single_call"]) {
    const info = await readInfo(bytes(`${folder}${name}.tflite`));
    assert.equal(info.version, 2);
    assert.equal(info.log_odds, undefined);
    assert.ok(info.thresholds.every((t) => typeof t === "number"));
  }
});

test("what version 2 does not know is not read", async () => {
  const content = bytes("../../tests/data/before_layout/float32.tflite");
  const place = Buffer.from(content).indexOf('"policy": {"method": "by hand"}');
  for (const key of ["log_odds", "agreement", "inputs", "pixels"]) {
    for (const value of ["5", "[]", '["a"]', '{"a": 2}']) {
      const base64 = Buffer.from(`"${key}": ${value}`.padEnd(31)).toString("base64");
      const forged = edited(content, { write: [{ at: place, base64 }], reseal: true });
      assert.ok(!(key in (await readInfo(forged))), `${key}: ${value}`);
    }
  }
});

test("no change of the metadata makes anything but a FileError", async () => {
  const content = bytes("files/learned.tflite");
  const text = Buffer.from(content);
  const [start, end] = [text.indexOf('{"format"'), text.indexOf("keras_adaptive", 2000)];
  let random = 1;
  const next = (below) => (random = (random * 48271) % 2147483647) % below;
  let refused = 0;
  for (let i = 0; i < 300; i++) {
    const at = start + next((end > start ? end : content.length) - start);
    const base64 = Buffer.from([next(256), next(256)]).toString("base64");
    const words = await refusal(edited(content, { write: [{ at, base64 }], reseal: true }));
    refused += words === null ? 0 : 1;
  }
  assert.ok(refused > 30, `${refused} of 300 refused`);
});

test("metadata that would cost much is refused before it is parsed", () => {
  assert.throws(() => parse("[".repeat(200_000)), /nested more than 100 deep/);
  assert.throws(() => parse("1".repeat(5000)), /an integer of 5000 digits/);
  assert.throws(() => parse('{"a": NaN}'), /Expecting value/);
  assert.deepEqual(parse('[1, 1.0, "\\u00e9", {"a": null}]').slice(0, 3), [1n, 1, "é"]);
  assert.equal(Object.getPrototypeOf(parse('{"__proto__": 1}')), null);
});

test("values are shown as Python shows them", () => {
  const cases = {
    "[1, 1.0, 0.1, 1e-05, 1e+16, 1.5e+300, -0.0, true, null]":
      "[1, 1.0, 0.1, 1e-05, 1e+16, 1.5e+300, -0.0, True, None]",
    '{"a": ["b", "it\'s", "é\\n"]}': "{'a': ['b', \"it's\", 'é\\n']}",
    "0.0001": "0.0001",
    "123456789012345.0": "123456789012345.0",
  };
  for (const [given, shown] of Object.entries(cases)) assert.equal(repr(parse(given)), shown);
});

test("the digest is SHA-256, with and without the platform's", async () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]) {
    const content = Uint8Array.from({ length }, (_, i) => (31 * i) % 251);
    const expected = createHash("sha256").update(content).digest("hex");
    assert.equal(Buffer.from(sha256(content)).toString("hex"), expected);
    assert.equal(await digest(content), expected);
  }
});
