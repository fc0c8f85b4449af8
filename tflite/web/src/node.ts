/** The same in Node: files are read from disk, and LiteRT.js is found among the packages. */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";

import { FileError } from "./errors.js";
import { type Factory, message, usePlatform } from "./platform.js";

const require = createRequire(import.meta.url);

usePlatform({
  async read(file) {
    const isUrl = file instanceof URL || /^(https?|file|data|blob):/.test(file);
    try {
      if (isUrl && !String(file).startsWith("file:")) {
        const response = await fetch(file);
        if (!response.ok) throw new Error(`HTTP ${response.status}`);
        return { content: new Uint8Array(await response.arrayBuffer()), name: String(file) };
      }
      return { content: new Uint8Array(await readFile(isUrl ? new URL(file) : file)),
        name: String(file) };
    } catch (error) {
      throw new FileError(`\`path\` must be a file. Received: path=${file} (${message(error)})`, {
        cause: error,
      });
    }
  },

  async factory(script) {
    // it is written for pages: as a module of CommonJS it has what it asks for
    const path = fileURLToPath(script);
    const text = await readFile(path, "utf8");
    const module = { exports: {} as unknown };
    const run = runInThisContext(
      `(function (module, exports, require, self, __filename, __dirname) {${text}\n})`,
      { filename: path },
    ) as (...given: unknown[]) => void;
    run(module, module.exports, require, globalThis, path, dirname(path));
    return module.exports as Factory;
  },

  folder(given) {
    if (given !== undefined) {
      const isUrl = given instanceof URL || given.startsWith("file:");
      const { href } = isUrl ? new URL(given) : pathToFileURL(given);
      return href.endsWith("/") ? href : `${href}/`;
    }
    const core = dirname(require.resolve("@litertjs/core/package.json"));
    return pathToFileURL(`${core}/wasm/`).href;
  },

  turn: () => new Promise((resolve) => setImmediate(resolve)),
});

export * from "./index.js";
