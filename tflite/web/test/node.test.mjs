/** Real files in Node: what they answer, and how they stop. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { Preparer } from "../dist/arguments.js";
import { Pass } from "../dist/backend.js";
import { AnytimeModel, FileError, readInfo } from "../dist/node.js";
import { AnytimeWorker } from "../dist/worker.js";
import { answers, bytes, FOLDER, near, row } from "./testdata.mjs";

const path = (name) => new URL(`files/${name}`, FOLDER);
const float32 = answers().find(({ file }) => file === "float32.tflite");

async function using(file, run) {
  const model = await (file instanceof Promise ? file : AnytimeModel.load(file));
  try {
    return await run(model);
  } finally {
    model.close();
  }
}

for (const one of answers()) {
  test(`${one.file} answers as is written`, () =>
    using(path(one.file), async (model) => {
      const { exits, info } = model;
      const [, stages, classes] = one.logits.shape;
      assert.equal(info.sha256, one.sha256);
      for (const [i, expected] of one.expected.entries()) {
        const image = one.images[i];
        const found = [await model.classify(image), model.classifySync(image)];
        if (one.single_call) found.push(await model.predict(image));
        else await assert.rejects(model.predict(image), /single_call=True/);
        for (const answer of found) {
          const { exit, label, stoppedBy } = answer;
          const wanted = [expected.exit, expected.label, expected.stopped_by];
          assert.deepEqual([exit, label, stoppedBy], wanted, `image ${i}`);
          assert.equal(answer.className, info.class_names?.[label] ?? null);
          near(answer.cost, row(one.costs, i)[exits.indexOf(exit)], 1e-6, "cost");
          expected.probabilities.forEach((p, c) => near(answer.probabilities[c], p, 1e-4));
        }
        // every stage, from the logits in the file
        const logits = row(one.logits, i);
        let stage = 0;
        for await (const answer of model.stream(image)) {
          const own = logits.subarray(stage * classes, (stage + 1) * classes);
          const scaled = [...own].map((z) => z / info.temperatures[exits[stage]]);
          const total = scaled.reduce((sum, z) => sum + Math.exp(z - Math.max(...scaled)), 0);
          answer.probabilities.forEach((p, c) =>
            near(p, Math.exp(scaled[c] - Math.max(...scaled)) / total, 1e-4, `stage ${stage}`));
          stage++;
          assert.equal(answer.stoppedBy, stage === stages ? "end" : null);
        }
        assert.equal(stage, stages);
      }
    }));
}

test("thresholds replace those of the file, in stages and in the single call", () =>
  using(path("single_call.tflite"), async (model) => {
    const one = answers().find(({ file }) => file === "single_call.tflite");
    let random = 7;
    const next = () => (random = (random * 48271) % 2147483647) / 2147483647;
    for (const image of one.images) {
      const all = [];
      for await (const answer of model.stream(image)) all.push(answer);
      const margins = all.map(({ probabilities }) => {
        const [first, second] = [...probabilities].sort((a, b) => b - a);
        return first - second;
      });
      for (let i = 0; i < 5; i++) {
        const thresholds = [next(), next(), -Infinity];
        if (margins.some((m, k) => Math.abs(m - thresholds[k]) < 1e-4)) continue;
        const exit = margins.findIndex((m, k) => k === 2 || m >= thresholds[k]);
        assert.equal((await model.classify(image, { thresholds })).exit, exit);
        assert.equal((await model.predict(image, { thresholds })).exit, exit);
      }
      const all3 = { thresholds: [Infinity, Infinity, -Infinity] };
      assert.equal((await model.classify(image, all3)).stoppedBy, "end");
      assert.equal((await model.classify(image, { ...all3, patience: 2 })).exit >= 1, true);
    }
  }));

test("files of version 2 answer, the single call too", async () => {
  const folder = new URL("../../tests/data/before_layout/", FOLDER);
  for (const name of ["float32", "int8", "learned", "single_call"]) {
    await using(new URL(`${name}.tflite`, folder), async (model) => {
      const size = model.inputShape.reduce((product, n) => product * n, 1);
      const image = Float32Array.from({ length: size }, (_, i) => Math.sin(i));
      const answer = await model.classify(image);
      assert.ok(answer.exit in model.info.thresholds && answer.cost === null);
      const total = answer.probabilities.reduce((sum, p) => sum + p, 0);
      near(total, 1, 1e-5);
      if (name === "single_call") assert.equal((await model.predict(image)).exit, answer.exit);
    });
  }
});

test("time ends an image: deadlines, cancel, an AbortSignal", () =>
  using(path("float32.tflite"), async (model) => {
    const never = { thresholds: [Infinity, Infinity, -Infinity] };
    const [image] = float32.images;
    const late = await model.classify(image, { ...never, deadlineMs: 0 });
    assert.deepEqual([late.exit, late.stoppedBy], [0, "deadline"]);
    assert.equal(model.classifySync(image, { ...never, deadlineMs: 0 }).stoppedBy, "deadline");
    const calm = await model.classify(image, { ...never, deadlineMs: 10_000 });
    assert.deepEqual([calm.exit, calm.stoppedBy], [2, "end"]);

    const waiting = [0, 1, 2].map(() => model.classify(image, never));
    model.cancel();
    const later = model.classify(image, never);
    for (const answer of await Promise.all(waiting)) {
      assert.deepEqual([answer.exit, answer.stoppedBy], [0, "cancelled"]);
    }
    assert.equal((await later).stoppedBy, "end");

    const aborted = await model.classify(image, { ...never, signal: AbortSignal.abort() });
    assert.deepEqual([aborted.exit, aborted.stoppedBy], [0, "cancelled"]);
    const controller = new AbortController();
    const under = model.classify(image, { ...never, signal: controller.signal });
    controller.abort();
    assert.equal((await under).stoppedBy, "cancelled");
    assert.equal((await model.classify(image, never)).stoppedBy, "end");
  }));

test("a stream ends when it is left, and others go on beside it", () =>
  using(path("float32.tflite"), async (model) => {
    const [first, second] = float32.images;
    const one = model.stream(first);
    const { value } = await one.next();
    const other = await model.classify(second);
    assert.equal(other.exit, float32.expected[1].exit);
    const rest = [];
    for await (const answer of one) rest.push(answer);
    assert.deepEqual([value.exit, ...rest.map(({ exit }) => exit)], [0, 1, 2]);
    for await (const answer of model.stream(first)) {
      assert.equal(answer.exit, 0);
      break;
    }
    const limited = [];
    for await (const answer of model.stream(first, { deadlineMs: 0 })) limited.push(answer);
    assert.deepEqual(limited.map(({ stoppedBy }) => stoppedBy), ["deadline"]);
  }));

test("a stream that nobody reads any more frees what it holds", () =>
  using(path("float32.tflite"), async (model) => {
    setFlagsFromString("--expose-gc");
    const [collect, { close }] = [runInNewContext("gc"), Pass.prototype];
    let freed = 0;
    Pass.prototype.close = function () {
      freed++;
      close.call(this);
    };
    try {
      for (let i = 0; i < 20; i++) await model.stream(new Float32Array(64)).next();
      for (let i = 0; i < 100 && freed < 15; i++) {
        collect();
        await new Promise(setImmediate);
      }
      assert.ok(freed >= 15, `${freed} of 20`);
    } finally {
      Pass.prototype.close = close;
    }
  }));

test("pictures go through the rule of the file, or must have the network's size", () =>
  using(path("float32.tflite"), async (model) => {
    const pixels = float32.images[0].image;
    const expected = await model.classify(pixels);
    const data = new Uint8ClampedArray(256).map((_, i) => (i % 4 === 3 ? 255 : pixels[i >> 2]));
    for (const picture of [{ data, width: 8, height: 8 }, { data: pixels, width: 8, height: 8 }]) {
      const answer = await model.classify(picture);
      assert.deepEqual(answer.probabilities, expected.probabilities);
    }
    const large = { data: new Uint8Array(300), width: 10, height: 10 };
    await assert.rejects(model.classify(large), /does not say how other pictures are scaled/);
  }));

test("standardized floats and pixels are the same image", () =>
  using(path("float32.tflite"), async (model) => {
    const pixels = float32.images[0].image;
    const floats = Float32Array.from(pixels, (p) => (p / 255 - 0.5) / 0.25);
    const [a, b] = [model.classifySync(pixels), model.classifySync(floats)];
    a.probabilities.forEach((p, i) => near(b.probabilities[i], p, 1e-5));
  }));

test("numbers that are too large for the network are refused, not answered by class 0", async () => {
  const image = Float32Array.from({ length: 64 }, (_, i) => 1e37 * (1 + ((7 * i) % 29)));
  for (const name of ["patience", "single_call", "learned"]) {
    await using(path(`${name}.tflite`), async (model) => {
      await assert.rejects(model.classify(image), /The logits must be finite/);
      await assert.rejects(model.stream(image).next(), /The logits must be finite/);
      if (name === "single_call") {
        await assert.rejects(model.predict(image), /The logits must be finite/);
      }
    });
  }
});

test("arguments that cannot be meant are refused, and say what they must be", () =>
  using(path("float32.tflite"), async (model) => {
    const image = float32.images[0].image;
    const refused = (given, options, kind, words) =>
      assert.rejects(model.classify(given, options), (error) => {
        assert.ok(error instanceof kind, `${error.name}: ${error.message}`);
        assert.match(error.message, words);
        return true;
      });
    await refused(new Uint8Array(3), {}, RangeError, /must be of shape \(8, 8, 1\), 64 numbers/);
    await refused([1, 2], {}, TypeError, /must be a typed array or a picture/);
    await refused("cat.png", {}, TypeError, /must be a typed array or a picture/);
    await refused(null, {}, TypeError, /must be a typed array/);
    await refused(new Float32Array(64).fill(NaN), {}, RangeError, /must be finite/);
    await refused(new Float32Array(64).fill(255), {}, RangeError, /which no pixel becomes/);
    await refused(new Int32Array(64), {}, TypeError, /uint8 or floats/);
    await refused({ other: image }, {}, RangeError, /with the inputs image/);
    await refused(image, { deadlineMs: -1 }, RangeError, /at least 0/);
    await refused(image, { deadlineMs: "5" }, TypeError, /at least 0/);
    await refused(image, { deadlineMs: NaN }, RangeError, /at least 0/);
    await refused(image, { thresholds: [1] }, RangeError, /3 numbers, one per exit/);
    await refused(image, { thresholds: [1, NaN, 0] }, RangeError, /3 numbers/);
    await refused(image, { thresholds: ["1", 1, 1] }, TypeError, /3 numbers/);
    await refused(image, { thresholds: 1 }, TypeError, /3 numbers/);
    await refused(image, { patience: 1 }, RangeError, /at least 2/);
    await refused(image, { patience: 2.5 }, RangeError, /at least 2/);
    assert.throws(() => model.classifySync(new Blob([])), TypeError);
  }));

test("a closed exit cannot be asked for", () =>
  using(path("first_exit_closed.tflite"), async (model) => {
    const image = new Float32Array(64);
    await model.classify(image, { thresholds: [Infinity, 1, -Infinity] });
    const asked = { thresholds: [1, 1, -Infinity] };
    await assert.rejects(model.classify(image, asked), /must be Infinity for exits 0/);
  }));

test("integers must fit the network's input", () =>
  using(path("two_inputs.tflite"), async (model) => {
    const image = new Float32Array(64);
    await model.classify({ image, tokens: Int32Array.of(1, 2, 3) });
    await model.classify({ image, tokens: BigInt64Array.of(1n, 2n, 3n) });
    await assert.rejects(model.classify(image), /an object with the inputs image, tokens/);
    const large = BigInt64Array.of(2n ** 40n, 0n, 0n);
    await assert.rejects(model.classify({ image, tokens: large }), RangeError);
    await assert.rejects(model.classify({ image, tokens: Float32Array.of(1, 2, 3) }), TypeError);
  }));

test("an image is what it was when it was given", () =>
  using(path("single_call.tflite"), async (model) => {
    const floats = (factor) => Float32Array.from({ length: 64 }, (_, i) => Math.sin(factor * i));
    const ways = [
      async (image) => model.classify(image),
      async (image) => model.predict(image),
      async (image) => (await model.stream(image).next()).value,
    ];
    for (const way of ways) {
      const [expected, other] = [await way(floats(1)), await way(floats(3))];
      assert.notDeepEqual(other.probabilities, expected.probabilities);
      const image = floats(1);
      const answer = way(image);
      image.set(floats(3));
      assert.deepEqual((await answer).probabilities, expected.probabilities, way.toString());
    }
  }));

test("arrays become what the network's inputs are, or are refused", () => {
  const prepare = (image, ...inputs) =>
    new Preparer({ pixels: null, preprocessing: null }, inputs).prepare(image);
  const data = { name: "data", shape: [2], dtype: "uint8" };
  const long = { name: "index", shape: [2], dtype: "int64" };
  const float = { name: "x", shape: [2], dtype: "float32" };
  const two = prepare({ data: Uint8Array.of(1, 2), index: Int32Array.of(3, 4) }, data, long);
  assert.deepEqual([...two], [["data", Uint8Array.of(1, 2)], ["index", BigInt64Array.of(3n, 4n)]]);
  const one = prepare({ data: Uint8Array.of(1, 2) }, data);
  assert.deepEqual([...one], [["data", Uint8Array.of(1, 2)]]);
  const most = BigUint64Array.of(2n ** 63n - 1n, 0n);
  assert.deepEqual(prepare(most, long).get("index"), BigInt64Array.of(2n ** 63n - 1n, 0n));
  assert.throws(() => prepare(BigUint64Array.of(2n ** 63n, 0n), long), /integers that int64 holds/);
  assert.throws(() => prepare(Float64Array.of(1e300, 0), float), /must be finite in float32/);
});

test("files that are none are refused before LiteRT.js sees them", async () => {
  const words = (file, pattern) =>
    assert.rejects(AnytimeModel.load(file), (error) => {
      assert.ok(error instanceof FileError, `${error.name}: ${error.message}`);
      assert.match(error.message, pattern);
      return true;
    });
  await words("missing.tflite", /must be a file\. Received: path=missing\.tflite/);
  await words(new TextEncoder().encode("<!doctype html>"), /must be a TFLite model/);
  await words(bytes("files/int8.tflite").subarray(0, 9000), /a Uint8Array \(an offset points/);
  await words(new ArrayBuffer(0), /must be a TFLite model\. Received: path=a ArrayBuffer/);
  const kinds = /`file` must be a URL, a Blob, a Uint8Array or an ArrayBuffer\. Received: /;
  for (const none of [5, null, {}]) await assert.rejects(AnytimeModel.load(none), kinds);
  const name = "model.tflite"; // `load` takes it, `readInfo` does not
  await assert.rejects(readInfo(name), /`content` must be a Uint8Array or an ArrayBuffer\. Rec/);
  await assert.rejects(AnytimeWorker.load(name), /`AnytimeWorker` must be used where there are/);
  await assert.rejects(AnytimeModel.load(path("int8.tflite"), { threads: 0 }), RangeError);
  await assert.rejects(AnytimeModel.load(path("int8.tflite"), { threads: 2 }), /must be 1 unless/);
  const nowhere = AnytimeModel.load(path("int8.tflite"), { wasm: new URL("nowhere/", FOLDER) });
  await assert.rejects(nowhere, /`wasm` must be the folder/);
});

test("bytes, an ArrayBuffer, a Blob and a URL are files too", async () => {
  const content = bytes("files/float32.tflite");
  for (const file of [content, content.buffer, new Blob([content]), path("float32.tflite")]) {
    await using(file, (model) => assert.equal(model.exits.length, 3));
  }
});

test("a file is what it was when it was given", async () => {
  const content = bytes("files/float32.tflite");
  const loading = AnytimeModel.load(content);
  content.fill(0);
  await using(loading, async (model) => {
    const [expected] = float32.expected;
    const { exit, label } = await model.classify(float32.images[0]);
    assert.deepEqual([exit, label], [expected.exit, expected.label]);
  });
});

test("a model that was closed says so, also under way", async () => {
  const model = await AnytimeModel.load(path("float32.tflite"));
  const [image] = float32.images;
  const under = model.classify(image, { thresholds: [Infinity, Infinity, -Infinity] });
  const stream = model.stream(image);
  await stream.next();
  model.close();
  model.close();
  await assert.rejects(under, /must be open/);
  await assert.rejects(stream.next(), /must be open/);
  assert.throws(() => model.classifySync(image), /must be open/);
  await assert.rejects(model.predict(image), /must be open/);
});

test("options that nobody knows are refused", async () => {
  await assert.rejects(AnytimeModel.load(path("float32.tflite"), { thread: 1 }), (error) =>
    error instanceof TypeError && /among wasm, threads. Received: thread$/.test(error.message));
  await using(path("single_call.tflite"), async (model) => {
    const image = new Float32Array(64);
    const python = { deadline_ms: 5 };
    const words = /among .*\. Received: deadline_ms$/;
    await assert.rejects(model.classify(image, python), words);
    await assert.rejects(model.predict(image, python), words);
    assert.throws(() => model.classifySync(image, python), words);
    assert.throws(() => model.stream(image, python), words);
    for (const options of [5, null, "5", [5]]) { // Python's second argument is the deadline
      await assert.rejects(model.classify(image, options), /must be an object with deadlineMs/);
      await assert.rejects(model.predict(image, options), /must be an object with thresholds/);
      assert.throws(() => model.stream(image, options), /must be an object with deadlineMs/);
      await assert.rejects(AnytimeModel.load(path("int8.tflite"), options), /object with wasm/);
    }
    for (const signal of [new AbortController(), true, {}]) {
      await assert.rejects(model.classify(image, { signal }), /must be an AbortSignal/);
      assert.throws(() => model.stream(image, { signal }), /must be an AbortSignal/);
    }
    await model.classify(image, { signal: null });
  });
});

test("a clock of 1 ms teaches how long stages take", async () => {
  const { now } = performance;
  performance.now = () => Math.floor(now.call(performance));
  try {
    await using(path("gated.tflite"), async (model) => {
      assert.ok(model.expectedMs.every((ms) => ms > 0.002 && ms < 20), String(model.expectedMs));
      for (let i = 0; i < 50; i++) model.classifySync(new Float32Array(64));
      assert.ok(model.expectedMs.every((ms) => ms > 0.002 && ms < 20), String(model.expectedMs));
    });
  } finally {
    performance.now = now;
  }
});
