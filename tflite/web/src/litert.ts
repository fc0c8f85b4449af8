/**
 * Starts LiteRT.js: its WebAssembly alone, whose bindings run files that its own classes refuse.
 *
 * The classes know float32, int32 and uint8; features of int8 files are int8, and are passed on
 * here as they are. The bindings promise nothing from version to version, which package.json
 * respects.
 */

import { message, platform } from "./platform.js";

interface Deletable {
  delete(): void;
}

export interface Vector<T> extends Deletable {
  size(): number;
  get(index: number): T;
}

export interface TensorType extends Deletable {
  bytes(): number;
}

export interface TensorBuffer extends Deletable {
  lock(mode: unknown): number;
  unlock(): void;
  packedSize(): number;
}

export interface LiteRtSignature extends Deletable {
  key(): string;
  inputNames(): Vector<string>;
  outputNames(): Vector<string>;
}

export interface LiteRtModel extends Deletable {
  getNumSignatures(): number;
  getSignature(index: number): LiteRtSignature;
  getInputTensorType(signature: number, input: number): TensorType;
}

export interface CompiledModel extends Deletable {
  run(signature: number, inputs: TensorBuffer[]): TensorBuffer[];
}

/** What of the bindings is used. */
export interface Bindings {
  HEAPU8: Uint8Array;
  _malloc(bytes: number): number;
  _free(pointer: number): void;
  setupLogging(): void;
  LiteRtEnvironment: { create(device: null): Deletable };
  LiteRtTensorBuffer: {
    createManaged(where: Deletable, kind: unknown, type: TensorType, bytes: number): TensorBuffer;
  };
  LiteRtTensorBufferType: { HOST_MEMORY: unknown };
  LiteRtTensorBufferLockMode: { READ: unknown; WRITE: unknown };
  loadModel(environment: Deletable, pointer: number, bytes: number): LiteRtModel;
  compileModel(
    environment: Deletable,
    model: LiteRtModel,
    options: object,
  ): CompiledModel | Promise<CompiledModel>;
}

export interface LiteRt {
  wasm: Bindings;
  environment: Deletable;
}

// a module with one instruction of relaxed SIMD, which not all browsers have
const RELAXED_SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253,
  15, 65, 2, 253, 15, 253, 128, 2, 11,
);

const started = new Map<string, Promise<LiteRt>>();

/** Starts LiteRT.js, once for each folder and kind. */
export function start(wasm: string | URL | undefined, threads: number): Promise<LiteRt> {
  const folder = platform.folder(wasm);
  const relaxed = WebAssembly.validate(RELAXED_SIMD);
  if (threads > 1 && !(globalThis.crossOriginIsolated && relaxed)) {
    throw new RangeError(
      "`threads` must be 1 unless the page is cross-origin isolated (COOP and COEP) and the " +
        `browser has relaxed SIMD. Received: threads=${threads}`,
    );
  }
  const kind = threads > 1 ? "_threaded" : relaxed ? "" : "_compat";
  const name = `${folder}litert_wasm${kind}_internal`;
  let found = started.get(name);
  if (!found) {
    found = begin(folder, `${name}.js`, `${name}.wasm`);
    started.set(name, found);
    found.catch(() => started.delete(name)); // so that another try can succeed
  }
  return found;
}

async function begin(folder: string, script: string, wasmFile: string): Promise<LiteRt> {
  try {
    const factory = await platform.factory(script);
    const wasm = (await factory({
      locateFile: (name: string) => folder + name,
      mainScriptUrlOrBlob: script,
      print() {},
      printErr() {},
      ...platform.options(folder, wasmFile),
    })) as Bindings;
    wasm.setupLogging();
    return { wasm, environment: wasm.LiteRtEnvironment.create(null) };
  } catch (error) {
    throw new Error(
      `\`wasm\` must be the folder of LiteRT.js's WebAssembly, which this page may load and run ` +
        `(a content security policy must allow 'wasm-unsafe-eval'). Received: wasm=${folder} ` +
        `(${message(error)})`,
      { cause: error },
    );
  }
}
