/** Runs the stages of one file in LiteRT.js. */

import { message } from "./platform.js";
import { type CompiledModel, type LiteRt, type LiteRtModel, type TensorBuffer, type TensorType,
  type Vector } from "./litert.js";

interface Step {
  index: number;
  inputs: string[];
  outputs: string[];
}

/** What one run of the network gives. */
export interface Result {
  logits: Float64Array;
  /** What the answer has cost, if the file says so. */
  cost: number | null;
  /** Of the single call: the exit. */
  exit: number;
}

/** The network's inputs by name. */
export type Tensors = Map<string, ArrayBufferView>;

const ANSWERS = ["logits", "exit_index", "cost"];

function list<T>(vector: Vector<T>): T[] {
  const found = Array.from({ length: vector.size() }, (_, i) => vector.get(i));
  vector.delete();
  return found;
}

/** A file that LiteRT.js has opened. What it allocates must be deleted: nobody else does. */
export class Backend {
  readonly #litert: LiteRt;
  readonly #pointer: number;
  readonly #model: LiteRtModel;
  readonly #compiled: CompiledModel;
  readonly #steps = new Map<string, Step>();
  readonly #types = new Map<string, TensorType>();

  private constructor(
    litert: LiteRt,
    pointer: number,
    model: LiteRtModel,
    compiled: CompiledModel,
  ) {
    this.#litert = litert;
    this.#pointer = pointer;
    this.#model = model;
    this.#compiled = compiled;
    for (let index = 0; index < model.getNumSignatures(); index++) {
      const signature = model.getSignature(index);
      const [inputs, outputs] = [list(signature.inputNames()), list(signature.outputNames())];
      this.#steps.set(signature.key(), { index, inputs, outputs });
      signature.delete();
    }
  }

  /** Opens a file, whose content must have been checked. */
  static async open(litert: LiteRt, content: Uint8Array, threads: number): Promise<Backend> {
    const { wasm, environment } = litert;
    const pointer = wasm._malloc(content.length);
    if (!pointer) throw new Error(`there is no memory for its ${content.length} bytes`);
    let model: LiteRtModel | undefined;
    try {
      wasm.HEAPU8.set(content, pointer);
      model = wasm.loadModel(environment, pointer, content.length);
      const compiled = await wasm.compileModel(environment, model, {
        environment,
        accelerator: "wasm",
        cpuOptions: { numThreads: threads },
        gpuOptions: {},
        webNNOptions: {},
      });
      return new Backend(litert, pointer, model, compiled);
    } catch (error) {
      model?.delete();
      wasm._free(pointer);
      throw error;
    }
  }

  /** Begins an image. */
  begin(tensors: Tensors): Pass {
    const buffers = new Map<string, TensorBuffer>();
    const pass = new Pass(this, buffers);
    try {
      for (const [name, values] of tensors) buffers.set(name, this.#buffer(name, values));
      return pass;
    } catch (error) {
      pass.close();
      throw error;
    }
  }

  /** Runs a signature on buffers, which it then has the outputs of; returns the answer. */
  run(signature: string, buffers: Map<string, TensorBuffer>): Result {
    const step = this.#steps.get(signature);
    if (!step) throw new Error(`there is no signature '${signature}'`);
    const inputs = step.inputs.map((name) => buffers.get(name)!);
    const results = this.#compiled.run(step.index, inputs);
    const answers = new Map<string, Uint8Array>();
    step.outputs.forEach((name, i) => {
      if (ANSWERS.includes(name)) {
        answers.set(name, this.#read(results[i]));
        results[i].delete();
      } else {
        buffers.get(name)?.delete();
        buffers.set(name, results[i]);
      }
    });
    const of = (name: string) => answers.get(name)?.buffer as ArrayBuffer | undefined;
    const [cost, exit] = [of("cost"), of("exit_index")];
    return {
      logits: Float64Array.from(new Float32Array(of("logits")!)),
      cost: cost ? new Float32Array(cost)[0] : null,
      exit: exit ? new Int32Array(exit)[0] : -1,
    };
  }

  close(): void {
    for (const type of this.#types.values()) type.delete();
    this.#compiled.delete();
    this.#model.delete();
    this.#litert.wasm._free(this.#pointer);
  }

  #buffer(name: string, values: ArrayBufferView): TensorBuffer {
    const { wasm, environment } = this.#litert;
    const type = this.#type(name);
    if (type.bytes() !== values.byteLength) throw new Error(`its input '${name}' has another size`);
    const buffer = wasm.LiteRtTensorBuffer.createManaged(
      environment,
      wasm.LiteRtTensorBufferType.HOST_MEMORY,
      type,
      values.byteLength,
    );
    const pointer = buffer.lock(wasm.LiteRtTensorBufferLockMode.WRITE);
    const { buffer: from, byteOffset, byteLength } = values;
    wasm.HEAPU8.set(new Uint8Array(from, byteOffset, byteLength), pointer);
    buffer.unlock();
    return buffer;
  }

  /** The type of an input of the network. */
  #type(name: string): TensorType {
    let type = this.#types.get(name);
    if (!type) {
      const step = [...this.#steps.values()].find(({ inputs }) => inputs.includes(name));
      if (!step) throw new Error(`no stage reads the input '${name}'`);
      type = this.#model.getInputTensorType(step.index, step.inputs.indexOf(name));
      this.#types.set(name, type);
    }
    return type;
  }

  #read(buffer: TensorBuffer): Uint8Array {
    const { wasm } = this.#litert;
    const pointer = buffer.lock(wasm.LiteRtTensorBufferLockMode.READ);
    const found = wasm.HEAPU8.slice(pointer, pointer + buffer.packedSize());
    buffer.unlock();
    return found;
  }
}

/** One image's way through the network: its inputs and features. */
export class Pass {
  readonly #backend: Backend;
  readonly #buffers: Map<string, TensorBuffer>;

  constructor(backend: Backend, buffers: Map<string, TensorBuffer>) {
    this.#backend = backend;
    this.#buffers = buffers;
  }

  /** Runs a stage, whose earlier ones must have run. */
  stage(stage: number): Result {
    return this.#backend.run(`stage_${stage}`, this.#buffers);
  }

  /** Runs the single call. */
  predict(): Result {
    return this.#backend.run("predict", this.#buffers);
  }

  close(): void {
    for (const buffer of this.#buffers.values()) buffer.delete();
    this.#buffers.clear();
  }
}

/** What an error of WebAssembly says. */
export function reason(error: unknown): string {
  return message(error).split("\n")[0].slice(0, 200);
}
