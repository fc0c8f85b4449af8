/** A model in a worker: the same calls, and the page never waits. */

import type {
  Answer, ClassifyOptions, LoadOptions, PredictOptions, StreamOptions,
} from "./anytime.js";
import { checkDeadline, checkNames, type Image } from "./arguments.js";
import { FileError } from "./errors.js";
import type { Info, Input } from "./file.js";
import type { Loaded, Request, Response } from "./protocol.js";
import { isDrawable, loadedSize } from "./sources.js";

export type * from "./index.js";
export { FileError } from "./errors.js";

export interface WorkerOptions extends LoadOptions {
  /**
   * A worker that runs `worker_script.js` (a module) or `worker_classic.js` of this package. Left
   * out: one is made, and ends when the model is closed.
   */
  worker?: Worker;
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

const ERRORS: Record<string, new (message: string) => Error> = { FileError, RangeError, TypeError };
let numbers = 0; // of models and calls

/** The calls that are under way in each worker. */
const workers = new WeakMap<Worker, Map<number, Waiting>>();

/** Leaves streams that nobody will read to their end. */
const abandoned = new FinalizationRegistry<() => void>((leave) => leave());

/** Listens to a worker, once. */
function waitingIn(worker: Worker): Map<number, Waiting> {
  const known = workers.get(worker);
  if (known) return known;
  const waiting = new Map<number, Waiting>();
  workers.set(worker, waiting);
  worker.addEventListener("message", ({ data }: MessageEvent<Response>) => {
    const call = waiting.get(data.id);
    if (!call) return;
    waiting.delete(data.id);
    if ("error" in data) {
      const { name, message } = data.error;
      call.reject(new (ERRORS[name] ?? Error)(message));
    } else call.resolve(data.result);
  });
  const broken = (event: Event) => {
    const said = event instanceof ErrorEvent && event.message ? ` (${event.message})` : "";
    for (const { reject } of waiting.values()) {
      reject(new Error(`The worker must be one that can be loaded, and run${said}`));
    }
    waiting.clear();
  };
  worker.addEventListener("error", broken);
  worker.addEventListener("messageerror", broken);
  return waiting;
}

/** `AnytimeModel` in a worker. */
export class AnytimeWorker {
  readonly info: Info;
  readonly exits: readonly number[];
  readonly inputs: readonly Input[];
  readonly #worker: Worker;
  readonly #own: boolean;
  readonly #model: number;
  #closed = false;
  #cancels = 0;

  private constructor(worker: Worker, own: boolean, model: number, { info, inputs }: Loaded) {
    this.#worker = worker;
    this.#own = own;
    this.#model = model;
    this.info = info;
    this.exits = info.exits;
    this.inputs = inputs;
  }

  /** As `AnytimeModel.load`, in a worker. */
  static async load(
    file: string | URL | Blob | Uint8Array | ArrayBuffer,
    options: WorkerOptions = {},
  ): Promise<AnytimeWorker> {
    checkNames(options, "wasm", "threads", "worker");
    const { wasm, threads, worker } = options;
    if (!worker && typeof Worker === "undefined") {
      throw new Error(
        "`AnytimeWorker` must be used where there are workers, as in a page. Received: none; in " +
          "Node take `AnytimeModel`, in a thread of its own if need be",
      );
    }
    const used = worker ??
      new Worker(new URL("./worker_script.js", import.meta.url), { type: "module" });
    const base = globalThis.document?.baseURI ?? location.href;
    const absolute = (url: string | URL) => new URL(url, base).href;
    const model = ++numbers;
    try {
      const loaded = await asked(used, {
        do: "load",
        id: ++numbers,
        model,
        file: typeof file === "string" || file instanceof URL ? absolute(file) : file,
        wasm: wasm === undefined ? undefined : absolute(wasm),
        threads,
      });
      return new AnytimeWorker(used, !worker, model, loaded as Loaded);
    } catch (error) {
      if (!worker) used.terminate();
      throw error;
    }
  }

  get inputShape(): readonly number[] {
    return this.inputs[0].shape;
  }

  /** As `AnytimeModel.classify`. */
  async classify(image: Image | Blob, options: ClassifyOptions = {}): Promise<Answer> {
    checkNames(options, "deadlineMs", "thresholds", "patience", "signal");
    const { signal, ...rest } = options;
    const found = await this.#send(image, { do: "classify", id: ++numbers, options: rest }, signal);
    return found as Answer;
  }

  /** As `AnytimeModel.predict`. */
  async predict(image: Image | Blob, options: PredictOptions = {}): Promise<Answer> {
    checkNames(options, "thresholds");
    return (await this.#send(image, { do: "predict", id: ++numbers, options })) as Answer;
  }

  /** As `AnytimeModel.stream`. */
  stream(image: Image | Blob, options: StreamOptions = {}): AsyncGenerator<Answer, void> {
    checkNames(options, "deadlineMs", "signal");
    checkDeadline(options.deadlineMs);
    const stream = ++numbers;
    const found = this.#stream(image, options, stream);
    abandoned.register(found, () => this.#tell({ do: "leave", model: this.#model, stream }));
    return found;
  }

  async *#stream(
    image: Image | Blob,
    { signal, ...options }: StreamOptions,
    stream: number,
  ): AsyncGenerator<Answer, void> {
    const model = this.#model;
    const abort = () => this.#tell({ do: "abort", model, call: stream });
    try {
      await this.#send(image, { do: "stream", id: stream, options }, signal);
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) abort(); // while it was sent
      for (;;) {
        const answer = await this.#ask({ do: "next", id: ++numbers, model, stream });
        if (answer === undefined) return;
        yield answer as Answer;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#tell({ do: "leave", model, stream });
    }
  }

  /** As `AnytimeModel.cancel`: heard after the stage that is running. */
  cancel(): void {
    this.#cancels++;
    this.#tell({ do: "cancel", model: this.#model });
  }

  /** Frees the memory, and ends the worker if it was made here. */
  close(): void {
    if (this.#closed) return;
    this.#tell({ do: "close", model: this.#model });
    this.#closed = true;
    if (!this.#own) return;
    this.#worker.terminate();
    const waiting = waitingIn(this.#worker);
    for (const { reject } of waiting.values()) reject(closed());
    waiting.clear();
  }

  #tell(request: Request): void {
    if (!this.#closed) this.#worker.postMessage(request);
  }

  async #ask(request: Request & { id: number }, transfer: Transferable[] = []): Promise<unknown> {
    if (this.#closed) throw closed();
    return asked(this.#worker, request, transfer);
  }

  /** Sends an image: elements as bitmaps, which the worker can draw. */
  async #send(
    image: Image | Blob,
    call: { do: "classify" | "predict" | "stream"; id: number; options: StreamOptions & PredictOptions },
    signal?: AbortSignal,
  ): Promise<unknown> {
    const [began, cancels, model] = [performance.now(), this.#cancels, this.#model];
    checkDeadline(call.options.deadlineMs);
    const isElement = isDrawable(image) && !("close" in image);
    if (isElement) loadedSize(image);
    const sent = isElement ? await createImageBitmap(image) : image;
    const options = { ...call.options };
    // what was waited for here counts
    if (options.deadlineMs) {
      options.deadlineMs = Math.max(0, options.deadlineMs - (performance.now() - began));
    }
    const aborted = Boolean(signal?.aborted) || this.#cancels !== cancels;
    const request = { ...call, options, model, image: sent, aborted } as Request & { id: number };
    const answer = this.#ask(request, isElement ? [sent as ImageBitmap] : []);
    const abort = () => this.#tell({ do: "abort", model, call: call.id });
    signal?.addEventListener("abort", abort);
    try {
      return await answer;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }
}

/** Sends a request; returns what comes back. */
function asked(
  worker: Worker,
  request: Request & { id: number },
  transfer: Transferable[] = [],
): Promise<unknown> {
  const waiting = waitingIn(worker);
  return new Promise((resolve, reject) => {
    worker.postMessage(request, transfer); // throws where something cannot be sent
    waiting.set(request.id, { resolve, reject });
  });
}

function closed(): Error {
  return new Error("The model must be open. Received: a model that was closed");
}
