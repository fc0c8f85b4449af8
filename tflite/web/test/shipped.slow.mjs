/** The network that comes with the library, on real images: the exits of Python. */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { openPage, serve, skip, withBrowser } from "./browser.mjs";

// written by ../android/vectors.py for every runtime
const FOLDER = new URL("../../android/target/shipped/", import.meta.url);
const ANSWERS = new URL("answers.json", FOLDER);
const MAKE = "python tflite/android/vectors.py tflite/android/target/shipped";
const absent = existsSync(ANSWERS) ? false : `There are no answers. Make them: ${MAKE}`;
const cases = absent ? [] : JSON.parse(readFileSync(ANSWERS, "utf8")).cases;
const content = (name) => readFileSync(new URL(name, FOLDER));

/** In Node and in the page: how a file answers its images. */
async function answered({ AnytimeModel }, file, how, { inputs, expected }) {
  const [{ shape, base64 }] = Object.values(inputs);
  const pixels = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const size = pixels.length / shape[0];
  const model = await AnytimeModel.load(file, how);
  const found = { images: 0, alike: 0, single: 0, difference: 0 };
  for (const [i, { exit, label, stopped_by, probabilities }] of expected.entries()) {
    const image = pixels.subarray(i * size, (i + 1) * size);
    const answer = await model.classify(image);
    const same = answer.exit === exit && answer.label === label;
    found.images++;
    found.alike += same && answer.stoppedBy === stopped_by ? 1 : 0;
    probabilities.forEach((p, c) => {
      found.difference = Math.max(found.difference, Math.abs(p - answer.probabilities[c]));
    });
    try {
      found.single += (await model.predict(image)).exit === exit ? 1 : 0;
    } catch {
      found.single = null; // the file has no single call
    }
  }
  model.close();
  return found;
}

function check(name, { images, alike, single, difference }) {
  assert.equal(images, 200);
  // dynamic quantization rounds activations, which kernels do differently
  const most = name.startsWith("dynamic") ? 2 : 0;
  assert.ok(images - alike <= most, `${alike} of ${images} alike`);
  if (single !== null) assert.equal(single, images);
  if (alike === images) assert.ok(difference < (most ? 0.05 : 1e-4), String(difference));
}

for (const one of cases) {
  test(`${one.file} answers 200 images as Python does, in Node`, async (t) => {
    const found = await answered(await import("../dist/node.js"), content(one.file), {}, one);
    t.diagnostic(JSON.stringify(found));
    check(one.file, found);
  });

  test(`${one.file} answers 200 images as Python does, in Chromium`, { skip }, async (t) => {
    const server = await serve({
      "page.html": { body: "<!doctype html><title>test</title>", type: "text/html" },
      "shipped.tflite": content(one.file),
      "shipped.json": JSON.stringify(one),
    });
    try {
      await withBrowser(async (browser) => {
        const { page } = await openPage(browser, `${server.url}page.html`);
        const found = await page.evaluate(`(async () => {
          const one = await (await fetch("/shipped.json")).json();
          const how = { wasm: "/node_modules/@litertjs/core/wasm/" };
          return (${answered})(await import("/dist/index.js"), "/shipped.tflite", how, one);
        })()`);
        t.diagnostic(JSON.stringify(found));
        check(one.file, found);
      });
    } finally {
      server.close();
    }
  });
}

test("there are answers of Python", { skip: absent }, () => assert.equal(cases.length, 2));
