/** 20,000 images, and files opened and closed again and again: memory does not grow. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { openPage, serve, skip, withBrowser } from "./browser.mjs";

/** Runs images and openings; returns the bytes of WebAssembly's memory after each part. */
async function grown({ AnytimeModel }, file, how, memories) {
  const bytes = () => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);
  const model = await AnytimeModel.load(file, how);
  const size = model.inputShape.reduce((product, n) => product * n, 1);
  const images = Array.from({ length: 16 }, (_, i) =>
    Float32Array.from({ length: size }, (_, j) => Math.sin(i + j)));
  const run = async (count) => {
    for (let i = 0; i < count; i++) {
      const image = images[i % images.length];
      if (i % 4 === 0) model.classifySync(image);
      else if (i % 4 === 1) await model.predict(image);
      else if (i % 4 === 2) await model.classify(image);
      else for await (const answer of model.stream(image)) if (answer.exit > 0) break;
    }
  };
  await run(500);
  const before = bytes();
  await run(20_000);
  const after = bytes();
  const opened = [];
  for (let i = 0; i < 60; i++) {
    (await AnytimeModel.load(file, how)).close();
    if (i >= 20) opened.push(bytes());
  }
  model.close();
  return { before, after, opened: [opened[0], opened.at(-1)] };
}

function check({ before, after, opened }) {
  assert.ok(before > 0);
  assert.equal(after, before, "20,000 images");
  assert.equal(opened[1], opened[0], "40 openings");
}

/** Keeps every memory that WebAssembly makes from now on. */
function watch() {
  const memories = [];
  for (const name of ["instantiate", "instantiateStreaming"]) {
    const original = WebAssembly[name];
    WebAssembly[name] = async (...given) => {
      const found = await original.call(WebAssembly, ...given);
      const { exports } = found.instance ?? found;
      memories.push(...Object.values(exports).filter((one) => one instanceof WebAssembly.Memory));
      return found;
    };
  }
  return memories;
}

for (const name of ["single_call", "int8"]) {
  test(`memory stays in Node: ${name}`, async () => {
    const memories = (globalThis.memories ??= watch());
    const file = new URL(`../../testdata/files/${name}.tflite`, import.meta.url);
    check(await grown(await import("../dist/node.js"), file, {}, memories));
  });

  test(`memory stays in Chromium: ${name}`, { skip }, async () => {
    const body = `<!doctype html><title>test</title><script>${watch} memories = watch()</script>
      <script>${grown}</script>`;
    const server = await serve({ "page.html": { body, type: "text/html" } });
    try {
      await withBrowser(async (browser) => {
        const { page } = await openPage(browser, `${server.url}page.html`);
        const found = await page.evaluate(async (name) => {
          const how = { wasm: "/node_modules/@litertjs/core/wasm/" };
          const module = await import("/dist/index.js");
          return grown(module, `/testdata/files/${name}.tflite`, how, memories);
        }, name);
        check(found);
      });
    } finally {
      server.close();
    }
  });
}
