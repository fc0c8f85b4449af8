/**
 * What files answer here, and how long their stages take.
 *
 *     node bench/compare.mjs node|chromium FOLDER
 *
 * The folder holds cases.json, `[{"file", "single"}]`, images.bin, uint8 pixels of all images, and
 * about.json, `{"images", "shape", "turns"}`. Prints what `run` returns.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { openPage, serve, withBrowser } from "../test/browser.mjs";

/** Runs in Node and in the page: every file's logits, answers and times. */
async function run({ AnytimeModel, Backend, start, checkContent }, read, how) {
  const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
  const { images: count, shape, turns } = await json("about.json");
  const pixels = await read("images.bin");
  const size = shape.reduce((product, n) => product * n, 1);
  const images = Array.from({ length: count }, (_, i) => pixels.subarray(i * size, (i + 1) * size));
  const found = [];
  for (const { file, single } of await json("cases.json")) {
    const content = await read(file);
    const model = await AnytimeModel.load(content, how);
    const answers = [];
    for (const image of images) {
      const { exit, label, stoppedBy } = await model.classify(image);
      answers.push([exit, label, stoppedBy, single ? (await model.predict(image)).exit : exit]);
    }
    const { preprocessing, exits } = model.info;
    model.close();
    const { info } = await checkContent(content, file);
    const backend = await Backend.open(await start(how.wasm, 1), content, 1);
    const standardized = (image) => {
      const [mean, std] = [preprocessing.mean, preprocessing.std].map((x) => Float32Array.from(x));
      return Float32Array.from(image, (pixel, i) =>
        Math.fround(Math.fround(pixel / 255) - mean[i % mean.length]) / std[i % mean.length]);
    };
    const logits = [];
    const times = exits.map(() => []);
    for (let turn = 0; turn < turns; turn++) {
      for (const image of images) {
        const pass = backend.begin(new Map([[info.inputs[0].name, standardized(image)]]));
        for (let i = 0; i < exits.length; i++) {
          const before = performance.now();
          const result = pass.stage(i);
          times[i].push(performance.now() - before);
          if (turn === 0) logits.push(...result.logits);
        }
        pass.close();
      }
    }
    backend.close();
    const tenth = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 10)];
    found.push({ file, answers, logits, stage_ms: times.map(tenth) });
  }
  return found;
}

const [where, folder] = process.argv.slice(2);
const modules = ["anytime", "backend", "litert", "file"];

async function inNode() {
  const all = await Promise.all(modules.map((name) => import(`../dist/${name}.js`)));
  await import("../dist/node.js");
  const read = async (name) => new Uint8Array(readFileSync(join(folder, name)));
  return run(Object.assign({}, ...all), read, {});
}

async function inChromium() {
  const names = ["about.json", "cases.json", "images.bin"];
  const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
  names.push(...cases.map(({ file }) => file));
  const pages = { "page.html": "<!doctype html><title>bench</title>" };
  for (const name of names) pages[`bench/data/${name}`] = readFileSync(join(folder, name));
  // isolated: the clock is finer
  const server = await serve(pages, {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
  });
  try {
    return await withBrowser(async (browser) => {
      const { page } = await openPage(browser, `${server.url}page.html`);
      return page.evaluate(`(async () => {
        const run = ${run};
        const all = await Promise.all(${JSON.stringify(modules)}.map((name) =>
          import("/dist/" + name + ".js")));
        const read = async (name) =>
          new Uint8Array(await (await fetch("/bench/data/" + name)).arrayBuffer());
        return run(Object.assign({}, ...all), read, { wasm: "/node_modules/@litertjs/core/wasm/" });
      })()`);
    });
  } finally {
    server.close();
  }
}

const found = await (where === "node" ? inNode() : inChromium());
process.stdout.write(JSON.stringify(found), () => process.exit(0));
