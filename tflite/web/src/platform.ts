/** What differs between a page, a worker and Node. */

import { FileError } from "./errors.js";

/** What a script of LiteRT.js defines: it starts WebAssembly. */
export type Factory = (options: object) => Promise<unknown>;

export interface Platform {
  /** The content of a file, and what errors call it. */
  read(file: string | URL): Promise<{ content: Uint8Array; name: string }>;
  /** Loads one script of LiteRT.js. */
  factory(script: string): Promise<Factory>;
  /** What starting it needs beside what is the same everywhere. */
  options(folder: string, wasm: string): object;
  /** The folder of LiteRT.js's WebAssembly, its last letter a slash. */
  folder(given?: string | URL): string;
  /** Gives the event loop a turn, so that what happened meanwhile is heard. */
  turn(): Promise<void>;
}

interface Scope {
  ModuleFactory?: Factory;
  importScripts?: (...urls: string[]) => void;
}

const scope = globalThis as Scope;

/** Takes what a script has defined, so that nothing of it stays. */
function taken(script: string): Factory {
  const found = scope.ModuleFactory;
  if (!found) throw new Error(`${script} is not a script of LiteRT.js`);
  scope.ModuleFactory = undefined;
  return found;
}

/** Whether this is a worker whose scripts are not modules. */
function isClassicWorker(): boolean {
  try {
    scope.importScripts!();
    return true;
  } catch {
    return false;
  }
}

async function fetched(url: string): Promise<Response> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is missing (HTTP ${response.status})`);
  return response;
}

let channel: MessageChannel | undefined;
const waiting: (() => void)[] = [];

const browser: Platform = {
  async read(file) {
    const url = String(file);
    try {
      const response = await fetched(url);
      const type = response.headers.get("content-type") ?? "";
      const content = new Uint8Array(await response.arrayBuffer());
      return { content, name: type.startsWith("text/html") ? `${url}, a page of HTML` : url };
    } catch (error) {
      throw new FileError(`\`path\` must be a file. Received: path=${url} (${message(error)})`);
    }
  },

  async factory(script) {
    if (typeof document !== "undefined") {
      await new Promise<void>((resolve, reject) => {
        const element = document.createElement("script");
        element.src = script;
        element.crossOrigin = "anonymous";
        element.onload = () => resolve();
        element.onerror = () => reject(new Error(`${script} is missing, or may not be loaded`));
        document.head.append(element);
        element.remove();
      });
    } else if (isClassicWorker()) {
      scope.importScripts!(script);
    } else {
      // a worker whose scripts are modules: as a module, the script must say what it defines
      const text = await (await fetched(script)).text();
      const source = `${text}\nglobalThis.ModuleFactory = ModuleFactory;`;
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      try {
        await import(/* webpackIgnore: true */ /* @vite-ignore */ url);
      } finally {
        URL.revokeObjectURL(url);
      }
    }
    return taken(script);
  },

  options: () => ({}),

  folder(given) {
    if (given === undefined) {
      throw new TypeError(
        "`wasm` must be the URL of the folder `wasm` of the package @litertjs/core. " +
          "Received: wasm=undefined",
      );
    }
    const base = typeof document === "undefined" ? globalThis.location?.href : document.baseURI;
    const { href } = new URL(given, base);
    return href.endsWith("/") ? href : `${href}/`;
  },

  turn() {
    // one channel for all: a timer waits 4 ms
    if (!channel) {
      channel = new MessageChannel();
      channel.port1.onmessage = () => waiting.shift()?.();
    }
    return new Promise((resolve) => {
      waiting.push(resolve);
      channel!.port2.postMessage(null);
    });
  },
};

export let platform: Platform = browser;

/** Replaces what a browser does. */
export function usePlatform(other: Partial<Platform>): void {
  platform = { ...browser, ...other };
}

export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
