/** The package as others install it: its version, its files, its types. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { publint } from "publint";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const read = (path) => readFileSync(join(HERE, path), "utf8");

test("the version is that of the Python package, and of the lock file", () => {
  const { version } = JSON.parse(read("package.json"));
  const [, python] = /__version__ = "(.*)"/.exec(read("../python/anytime_tflite/__init__.py"));
  assert.equal(version, python);
  const lock = JSON.parse(read("package-lock.json"));
  assert.deepEqual([lock.version, lock.packages[""].version], [version, version]);
  const hosts = Object.values(lock.packages).flatMap(({ resolved }) => resolved ?? []);
  assert.ok(hosts.every((url) => url.startsWith("https://registry.npmjs.org/")));
});

test("what is packed is small, complete, and in order", async () => {
  const { messages } = await publint({ pkgDir: HERE, pack: false });
  assert.deepEqual(messages, []);
  const [packed] = JSON.parse(
    execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], { cwd: HERE }),
  );
  const names = packed.files.map(({ path }) => path);
  for (const name of ["LICENSE", "README.md", "dist/index.js", "dist/worker_classic.js"]) {
    assert.ok(names.includes(name), name);
  }
  assert.deepEqual(names.filter((name) => /\.(wasm|tflite|mjs)$|node_modules/.test(name)), []);
  assert.ok(packed.size < 150_000, `${packed.size} bytes`);
});

test("its types serve a strict program that has none of Node's", () => {
  const folder = mkdtempSync(join(tmpdir(), "anytime-tflite-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    symlinkSync(HERE, join(folder, "node_modules", "anytime-tflite"), "dir");
    writeFileSync(join(folder, "page.ts"), `
      import { AnytimeModel, FileError, type Answer, type Info } from "anytime-tflite";
      import { AnytimeWorker } from "anytime-tflite/worker";

      export async function run(image: HTMLImageElement, signal: AbortSignal): Promise<Answer> {
        const model = await AnytimeModel.load("model.tflite", { wasm: "/litert/" });
        const info: Info = model.info;
        for await (const { probabilities } of model.stream(image)) console.log(probabilities[0]);
        const there = await AnytimeWorker.load(new Uint8Array(3), { wasm: new URL("/", "a:") });
        const pixel = { data: new Uint8Array(3), width: 1, height: 1 };
        const first: Answer = await there.classify(pixel);
        console.log(info.class_names?.[first.label], FileError.name);
        return model.classify(image, { deadlineMs: 5, thresholds: info.thresholds, signal });
      }
    `);
    const options = ["--strict", "--noEmit", "--skipLibCheck", "false", "--module", "esnext",
      "--moduleResolution", "bundler", "--target", "es2022", "--types", "", "page.ts"];
    const tsc = join(HERE, "node_modules", ".bin", "tsc");
    execFileSync(tsc, options, { cwd: folder, encoding: "utf8" });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a program for Node may be bundled", () => {
  const folder = mkdtempSync(join(tmpdir(), "anytime-tflite-"));
  try {
    mkdirSync(join(folder, "node_modules"));
    const packages = { "anytime-tflite": HERE, "@litertjs": join(HERE, "node_modules/@litertjs") };
    for (const [name, path] of Object.entries(packages)) {
      symlinkSync(path, join(folder, "node_modules", name), "dir");
    }
    const file = JSON.stringify(join(HERE, "../testdata/files/float32.tflite"));
    writeFileSync(join(folder, "main.mjs"), `
      import { AnytimeModel } from "anytime-tflite";
      console.log((await AnytimeModel.load(${file})).exits.length);
    `);
    const esbuild = join(HERE, "node_modules", ".bin", "esbuild");
    const how = ["--bundle", "--platform=node", "--format=esm", "--outfile=out.mjs"];
    execFileSync(esbuild, ["main.mjs", ...how, "--log-level=warning"], { cwd: folder });
    const said = execFileSync(process.execPath, ["out.mjs"], { cwd: folder, encoding: "utf8" });
    assert.equal(said, "3\n");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
