/** The package in a real Chromium: pages, workers, pictures, and what a server does wrong. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";

import { openPage, serve, skip, withBrowser } from "./browser.mjs";
import { json } from "./testdata.mjs";

const WASM = "/node_modules/@litertjs/core/wasm/";
const PAGE = `<!doctype html><title>test</title><link rel="icon" href="data:,">`;
const csp = (policy) => ({ body: PAGE, type: "text/html",
  headers: { "content-security-policy": policy } });
// a PNG of 8 x 8 pixels, its second half missing
const BEGUN = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAU0lEQVR4" +
  "nAFIALf/AMXXFIT4z5v0ALdvR5BHMIBLAJ4yJanxM7XeAKFo9OKFHw==";
const PAGES = {
  "page.html": PAGE,
  "allowed.html": csp("default-src 'self' data:; script-src 'self' 'wasm-unsafe-eval'"),
  "forbidden.html": csp("default-src 'self' data:; script-src 'self'"),
  "hidden.tflite": { body: "<!doctype html>not found", type: "text/html; charset=utf-8" },
  "no_wasm/litert_wasm_internal.js": "self.ModuleFactory = 5",
  "no_wasm/litert_wasm_compat_internal.js": "self.ModuleFactory = 5",
};

for (const name of ["litert_wasm_internal.js", "litert_wasm_internal.wasm"]) {
  const body = readFileSync(new URL(`..${WASM}${name}`, import.meta.url));
  const type = name.endsWith("js") ? "text/javascript" : "application/octet-stream";
  PAGES[`octets/${name}`] = { body, type };
}

/** A browser, and what ends it. */
function running() {
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  return new Promise((resolve, reject) => {
    const all = withBrowser(async (browser) => {
      resolve([browser, () => (end(), all)]);
      await ended;
    });
    all.catch(reject);
  });
}

describe("in Chromium", { skip }, () => {
  let browser, endBrowser, server, page, errors;

  before(async () => {
    server = await serve(PAGES);
    [browser, endBrowser] = await running();
    ({ page, errors } = await openPage(browser, `${server.url}page.html`));
    await page.evaluate(async (wasm) => {
      const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const kinds = { float32: Float32Array, uint8: Uint8Array, int32: Int32Array };
      /** The images of a case of answers.json, each an object of arrays. */
      window.imagesOf = (one) =>
        one.expected.map((_, i) =>
          Object.fromEntries(
            Object.entries(one.inputs).map(([name, { shape, dtype, base64 }]) => {
              const values = new kinds[dtype](bytes(base64).buffer);
              const size = values.length / shape[0];
              return [name, values.slice(i * size, (i + 1) * size)];
            }),
          ),
        );
      window.bytes = bytes;
      window.how = { wasm };
      window.cases = (await (await fetch("/testdata/files/answers.json")).json()).cases;
      window.file = (name) => `/testdata/files/${name}`;
      window.never = { thresholds: [Infinity, Infinity, -Infinity] };
      window.imagesOfFloat32 = imagesOf(cases.find((one) => one.file === "float32.tflite"));
      window.refused = async (promise) => {
        try {
          await promise;
          return null;
        } catch (error) {
          return [error.name, error.message];
        }
      };
    }, WASM);
  });

  after(async () => {
    await endBrowser?.();
    server?.close();
  });

  test("every tiny file answers as is written, in the page and in a worker", async () => {
    const wrong = await page.evaluate(async () => {
      const { AnytimeModel } = await import("/dist/index.js");
      const { AnytimeWorker } = await import("/dist/worker.js");
      const worker = new Worker("/dist/worker_script.js", { type: "module" });
      const found = [];
      let answers = 0;
      for (const one of cases) {
        const here = await AnytimeModel.load(file(one.file), how);
        const there = await AnytimeWorker.load(file(one.file), { ...how, worker });
        for (const [i, image] of imagesOf(one).entries()) {
          const all = [await here.classify(image), await there.classify(image)];
          all.push(here.classifySync(image));
          if (one.single_call) all.push(await here.predict(image), await there.predict(image));
          const { exit, label, stopped_by, probabilities } = one.expected[i];
          for (const answer of all) {
            answers++;
            const same = answer.exit === exit && answer.label === label &&
              answer.stoppedBy === stopped_by &&
              probabilities.every((p, c) => Math.abs(p - answer.probabilities[c]) < 1e-4);
            if (!same) found.push([one.file, i, answer, one.expected[i]]);
          }
        }
        here.close();
        there.close();
      }
      worker.terminate();
      return { found, answers };
    });
    assert.deepEqual(wrong.found, []);
    assert.ok(wrong.answers > 600, `${wrong.answers} answers`);
  });

  test("damage is refused in the words of every language", async () => {
    const { cases } = json("files/damage.json");
    const found = await page.evaluate(async (cases) => {
      const { checkContent } = await import("/dist/file.js");
      const content = new Uint8Array(await (await fetch(file("float32.tflite"))).arrayBuffer());
      const words = [];
      for (const { write = [], cut } of cases) {
        const edited = Uint8Array.from(content);
        for (const { at, base64 } of write) edited.set(bytes(base64), at);
        const error = await refused(checkContent(edited.subarray(0, cut), "PATH"));
        words.push(error && error[1]);
      }
      return words;
    }, cases);
    const common = (words) => words && words.replace(/(info is JSON\. [^(]*) \(.*/s, "$1");
    cases.forEach((one, i) => {
      // those with a digest computed anew are tested in Node
      if (!one.reseal) assert.equal(common(found[i]), common(one.refusal), one.what);
    });
  });

  test("elements, bitmaps, frames and files are the pixels that they show", async () => {
    const found = await page.evaluate(async () => {
      const { AnytimeModel } = await import("/dist/index.js");
      const { AnytimeWorker } = await import("/dist/worker.js");
      const model = await AnytimeModel.load(file("float32.tflite"), how);
      const there = await AnytimeWorker.load(file("float32.tflite"), how);
      const [{ image }] = imagesOfFloat32;
      const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
      const rgba = Uint8ClampedArray.from({ length: 256 }, (_, i) =>
        i % 4 === 3 ? 255 : image[i >> 2]);
      const data = new ImageData(rgba, 8, 8);
      canvas.getContext("2d").putImageData(data, 0, 0);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve));
      const element = new Image();
      element.src = canvas.toDataURL();
      const unloaded = await refused(model.classify(new Image()));
      await element.decode();
      const frame = () => new VideoFrame(canvas, { timestamp: 0 });
      const expected = model.classifySync(image).probabilities;
      const off = await Promise.all(
        [data, canvas, element, blob, await createImageBitmap(canvas), frame()].map(async (one) => {
          const answers = [await model.classify(one), await there.classify(one)];
          return Math.max(...answers.flatMap(({ probabilities }) =>
            [...probabilities].map((p, i) => Math.abs(p - expected[i]))));
        }),
      );
      const broken = new Blob(["no picture"], { type: "image/png" });
      const refusals = [unloaded, await refused(model.classify(broken)),
        await refused(there.classify(broken))];
      model.close();
      there.close();
      return { off, refusals };
    });
    assert.equal(found.off.length, 6);
    found.off.forEach((difference, i) => assert.ok(difference < 1e-5, `${i}: ${difference}`));
    const names = found.refusals.map(([name]) => name);
    assert.deepEqual(names, ["RangeError", "TypeError", "TypeError"]);
    assert.match(found.refusals[0][1], /must be loaded/);
    assert.match(found.refusals[1][1], /this browser can decode/);
  });

  test("what is not loaded yet, or too large to draw, is refused, not white", async (t) => {
    const slow = createServer((_, response) => {
      response.writeHead(200, { "content-type": "image/png" });
      response.write(Buffer.from(BEGUN, "base64")); // and no more
    });
    t.after(() => (slow.closeAllConnections(), slow.close()));
    await new Promise((resolve) => slow.listen(0, "localhost", resolve));
    const found = await page.evaluate(async (url) => {
      const { AnytimeModel } = await import("/dist/index.js");
      const { AnytimeWorker } = await import("/dist/worker.js");
      const here = await AnytimeModel.load(file("float32.tflite"), how);
      const there = await AnytimeWorker.load(file("float32.tflite"), how);
      const half = Object.assign(new Image(), { src: url });
      for (let i = 0; i < 400 && !half.naturalWidth; i++) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      const video = document.createElement("video"); // its metadata is there, and no frame
      Object.defineProperty(video, "videoWidth", { value: 8 });
      Object.defineProperty(video, "videoHeight", { value: 8 });
      const words = [];
      for (const one of [half, video, new Image()]) {
        words.push(await refused(here.classify(one)), await refused(there.classify(one)));
      }
      const of = (width, height) => {
        const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"/>`;
        return Object.assign(new Image(), { src: `data:image/svg+xml,${encodeURIComponent(svg)}` });
      };
      const [long, vast] = [of(70_000, 2), of(20_000, 20_000)];
      await Promise.all([long, vast].map((one) => one.decode()));
      const large = [await refused(here.classify(long)), await refused(here.classify(vast))];
      const incomplete = !half.complete;
      here.close();
      there.close();
      return { words, large, incomplete };
    }, `http://localhost:${slow.address().port}/`);
    assert.ok(found.incomplete);
    for (const [name, words] of found.words) {
      assert.equal(name, "RangeError");
      assert.match(words, /must be loaded: an image after its `decode\(\)`/);
    }
    assert.match(found.large[0][1], /a size that this browser can draw\. Received: 70000x2/);
    assert.match(found.large[1][1], /1 to 134217728 pixels\. Received: 20000x20000/);
  });

  test("files of pictures become the pixels that training saw, within one level", async () => {
    const { decoded } = json("pixels.json");
    const worst = await page.evaluate(async (cases) => {
      const { decoded } = await import("/dist/sources.js");
      const { resize } = await import("/dist/pixels.js");
      const found = {};
      for (const { name, file, channels, expected } of cases) {
        const picture = await decoded(new Blob([bytes(file)]));
        const [height, width] = expected.shape;
        const pixels = resize(picture, { height, width, channels, margin: 1 });
        const wanted = bytes(expected.pixels);
        found[name] = [picture.width === width && picture.height === height, wanted.length -
          pixels.length, Math.max(...wanted.map((v, i) => Math.abs(v - pixels[i])))];
      }
      return found;
    }, decoded.filter(({ name }) => !/tiff|ppm|cmyk|16/i.test(name)));
    assert.ok(Object.keys(worst).length >= 3, Object.keys(worst).join());
    for (const [name, [sized, missing, difference]] of Object.entries(worst)) {
      assert.ok(sized && missing === 0, name);
      // decoders of JPEG differ
      assert.ok(difference <= (/jpe?g/i.test(name) ? 4 : 1), `${name}: ${difference}`);
    }
  });

  for (const kind of ["module", "classic"]) {
    test(`a ${kind} worker streams, is cancelled, and refuses in the same words`, async () => {
      const found = await page.evaluate(async (kind) => {
        const { AnytimeWorker, FileError } = await import("/dist/worker.js");
        const worker = kind === "classic" ? new Worker("/dist/worker_classic.js") : undefined;
        const model = await AnytimeWorker.load(file("float32.tflite"), { ...how, worker });
        const [{ image }] = imagesOfFloat32;
        const streamed = [];
        for await (const answer of model.stream(image)) streamed.push(answer.exit);
        for await (const answer of model.stream(image)) {
          streamed.push(answer.exit);
          break;
        }
        const late = await model.classify(image, { ...never, deadlineMs: 0 });
        const signal = AbortSignal.abort();
        const aborted = await model.classify(image, { ...never, signal });
        const waiting = Array.from({ length: 300 }, () => model.classify(image, never));
        model.cancel();
        const cancelled = (await Promise.all(waiting)).map(({ stoppedBy }) => stoppedBy);
        const after = await model.classify(image, never);
        const wrong = await refused(model.classify(new Uint8Array(3)));
        const here = await (await import("/dist/index.js")).AnytimeModel.load(
          file("float32.tflite"), how);
        const controller = new AbortController();
        const unlike = [];
        for (const options of [{ deadlineMs: "5" }, { deadlineMs: -5 }, { deadlineMs: true }, 5,
          null, { signal: controller }, { deadline_ms: 5 }]) {
          const both = [];
          for (const one of [here, model]) {
            both.push(await refused(one.classify(image, options)),
              await refused(one.predict(image, options)),
              await refused((async () => one.stream(image, options))()));
          }
          const words = both.map(String);
          if (words.slice(0, 3).join() !== words.slice(3).join() || words[0] === "null") {
            unlike.push(words);
          }
        }
        here.close();
        const bad = await refused(AnytimeWorker.load(file("damage.json"), how));
        const own = FileError.name;
        model.close();
        const closed = await refused(model.classify(image));
        return { info: [model.info.version, model.exits, model.inputShape], streamed, late,
          aborted, cancelled, after, wrong, bad, own, closed, unlike };
      }, kind);
      assert.deepEqual(found.info, [3, [0, 1, 2], [8, 8, 1]]);
      assert.deepEqual(found.streamed, [0, 1, 2, 0]);
      assert.deepEqual([found.late.exit, found.late.stoppedBy], [0, "deadline"]);
      assert.deepEqual([found.aborted.exit, found.aborted.stoppedBy], [0, "cancelled"]);
      // a cancellation is heard by those that have not ended
      const first = found.cancelled.indexOf("cancelled");
      assert.ok(first >= 0, "none was cancelled");
      assert.ok(found.cancelled.slice(first).every((by) => by === "cancelled"), found.cancelled);
      assert.ok(found.cancelled.slice(0, first).every((by) => by === "end"), found.cancelled);
      assert.equal(found.after.stoppedBy, "end");
      assert.equal(found.wrong[0], "RangeError");
      assert.deepEqual(found.unlike, []);
      assert.equal(found.bad[0], "FileError");
      assert.match(found.bad[1], /must be a TFLite model/);
      assert.match(found.closed[1], /must be open/);
    });
  }

  test("what a server does wrong is said", async () => {
    const found = await page.evaluate(async () => {
      const { AnytimeModel } = await import("/dist/index.js");
      const { AnytimeWorker } = await import("/dist/worker.js");
      const name = file("float32.tflite");
      return [
        await refused(AnytimeModel.load("/nowhere.tflite", how)),
        await refused(AnytimeModel.load("/hidden.tflite", how)),
        await refused(AnytimeModel.load(name)),
        await refused(AnytimeModel.load(name, { wasm: "/nowhere/" })),
        await refused(AnytimeModel.load(name, { wasm: "/no_wasm/" })),
        await refused(AnytimeModel.load(name, { ...how, threads: 2 })),
        await refused(AnytimeWorker.load(name, { wasm: "/nowhere/" })),
        await refused(AnytimeWorker.load(name, { ...how, worker: new Worker("/nowhere.js") })),
        await refused(AnytimeModel.load(name, how)), // another try succeeds
        await refused(AnytimeModel.load(name, { wasm: "/octets/" })), // slower, but it works
      ];
    });
    const expected = [
      ["FileError", /must be a file.*HTTP 404/],
      ["FileError", /must be a TFLite model.*hidden\.tflite, a page of HTML/],
      ["TypeError", /`wasm` must be the URL of the folder/],
      ["Error", /`wasm` must be the folder.*is missing/],
      ["Error", /`wasm` must be the folder/],
      ["RangeError", /`threads` must be 1 unless/],
      ["Error", /`wasm` must be the folder.*HTTP 404/],
      ["Error", /The worker must be one that can be loaded/],
    ];
    expected.forEach(([name, words], i) => {
      assert.equal(found[i]?.[0], name, `${i}: ${found[i]}`);
      assert.match(found[i][1], words);
    });
    assert.deepEqual(found.slice(8), [null, null]);
  });

  test("a content security policy may forbid everything but WebAssembly", async () => {
    for (const [name, allowed] of [["allowed", true], ["forbidden", false]]) {
      const { page } = await openPage(browser, `${server.url}${name}.html`);
      const found = await page.evaluate(async (wasm) => {
        const { AnytimeModel } = await import("/dist/index.js");
        try {
          const model = await AnytimeModel.load("/testdata/files/float32.tflite", { wasm });
          return (await model.classify(new Uint8Array(64))).exit;
        } catch (error) {
          return error.message;
        }
      }, WASM);
      if (allowed) assert.equal(typeof found, "number", found);
      else assert.match(found, /must allow 'wasm-unsafe-eval'/);
      await page.close();
    }
  });

  test("threads run where the page is cross-origin isolated", async () => {
    const isolated = await serve(PAGES, {
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    });
    try {
      const { page } = await openPage(browser, `${isolated.url}page.html`);
      const exits = await page.evaluate(async (wasm) => {
        const { AnytimeModel } = await import("/dist/index.js");
        const how = { wasm, threads: 2 };
        const model = await AnytimeModel.load("/testdata/files/float32.tflite", how);
        return (await model.classify(new Uint8Array(64))).exit;
      }, WASM);
      assert.equal(typeof exits, "number");
      await page.close();
    } finally {
      isolated.close();
    }
  });

  test("nothing is printed but what the browser says of missing files", () => {
    const own = errors.filter((text) => !/Failed to load resource|404/.test(text));
    assert.deepEqual(own, []);
  });
});
