/** `AnytimeModel`: runs a file stage by stage until confident or out of time. */

import {
  checkDeadline, checkNames, checkPatience, type Image, Preparer, stageThresholds,
} from "./arguments.js";
import { Backend, type Pass, reason, type Result, type Tensors } from "./backend.js";
import { FileError } from "./errors.js";
import { bytesOf, checkContent, type Checked, type Info, type Input, nameOf } from "./file.js";
import { start } from "./litert.js";
import { platform } from "./platform.js";
import { type Network, Run, type StoppedBy } from "./rule.js";
import { OLD_INPUT } from "./signatures.js";
import { decoded } from "./sources.js";
import { StageTimes } from "./stage_times.js";

const WARM_UP = 5; // runs of the network when a file is opened

/** The answer of one exit for one image. */
export interface Answer {
  /** One per class. */
  probabilities: Float32Array;
  /** The most probable class. */
  label: number;
  /** The exit that answered. */
  exit: number;
  /** Why it stopped; `null` while the answer may still get better. */
  stoppedBy: StoppedBy | null;
  /** Milliseconds since the image was given. */
  elapsedMs: number;
  /** `null` if the file names no classes. */
  className: string | null;
  /**
   * Multiply-accumulates that the answer has cost. Where gates decide what is computed, it is this
   * image's own.
   */
  cost: number | null;
}

export interface LoadOptions {
  /** URL of the folder `wasm` of the package @litertjs/core. In Node it is found by itself. */
  wasm?: string | URL;
  /** More than 1 needs a page that is cross-origin isolated. */
  threads?: number;
}

export interface StreamOptions {
  /** Milliseconds from now. The first stage always runs. */
  deadlineMs?: number | null;
  /** Ends the image as `cancel` does: it answers with the best so far. */
  signal?: AbortSignal;
}

export interface PredictOptions {
  /**
   * One number per exit of the network, in place of the file's. An exit that is not in the file
   * must have Infinity, or what the file has for it.
   */
  thresholds?: ArrayLike<number> | null;
}

export interface ClassifyOptions extends StreamOptions, PredictOptions {
  /** At least 2: also stop when so many answers in a row name the same class. */
  patience?: number | null;
}

/** One image on its way. */
interface Job {
  run: Run;
  start: number;
  cancelled(): boolean;
}

/** What a stream holds of WebAssembly's memory. */
interface Held {
  pass?: Pass;
}

/** Frees what streams hold that nobody will read to their end. */
const abandoned = new FinalizationRegistry<Held>(({ pass }) => pass?.close());

/**
 * A network in one .tflite file that stops when it is confident or out of time.
 *
 * Images that are given at once are taken one after the other; their deadlines count from the call.
 *
 * @example
 * const model = await AnytimeModel.load("model.tflite", { wasm: "/litert/" });
 * const answer = await model.classify(document.querySelector("img"), { deadlineMs: 5 });
 * console.log(answer.className, answer.exit, answer.stoppedBy);
 */
export class AnytimeModel {
  /** What the file says of itself. */
  readonly info: Info;
  /** The exit that each stage answers for. */
  readonly exits: readonly number[];
  /** The network's inputs, their shapes without the batch. */
  readonly inputs: readonly Input[];
  readonly #preparer: Preparer;
  readonly #networks: (Network | null)[] | null;
  readonly #temperatures: number[];
  readonly #single: boolean;
  readonly #times: StageTimes;
  #backend: Backend | null;
  #cancels = 0;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(
    { info, networks, signatures }: Checked,
    inputs: Input[],
    backend: Backend,
    times: StageTimes,
  ) {
    this.info = info;
    this.exits = info.exits;
    this.inputs = inputs;
    this.#networks = networks && info.exits.map((k) => networks[k]);
    this.#temperatures = info.exits.map((k) => info.temperatures[k]);
    this.#single = signatures.has("predict");
    this.#preparer = new Preparer(info, inputs);
    this.#backend = backend;
    this.#times = times;
  }

  /**
   * Checks a file, starts LiteRT.js where it has not been, and opens the file.
   *
   * @param file URL of a file written by `keras_adaptive.export_tflite` (in Node a path too), or
   *   its content.
   * @throws {FileError} If the file is missing, damaged, or not such a file.
   */
  static async load(
    file: string | URL | Blob | Uint8Array | ArrayBuffer,
    options: LoadOptions = {},
  ): Promise<AnytimeModel> {
    checkNames(options, "wasm", "threads");
    const { wasm, threads = 1 } = options;
    if (!Number.isSafeInteger(threads) || threads < 1) {
      throw new RangeError(`\`threads\` must be a positive integer. Received: threads=${threads}`);
    }
    const { content, name } = await contentOf(file);
    const checked = await checkContent(content, name);
    const litert = await start(wasm, threads);
    const inputs = inputsOf(checked);
    let backend: Backend | undefined;
    try {
      backend = await Backend.open(litert, content, threads);
      const times = new StageTimes(checked.info.exits.length);
      const model = new AnytimeModel(checked, inputs, backend, times);
      await model.#warmUp(backend);
      return model;
    } catch (error) {
      backend?.close();
      throw new FileError(
        "`path` must be a file whose stages the interpreter can run. " +
          `Received: path=${name} (${reason(error)})`,
        { cause: error },
      );
    }
  }

  /** The shape of an image: of the network's first input. */
  get inputShape(): readonly number[] {
    return this.inputs[0].shape;
  }

  /** How long each stage is expected to take here, in milliseconds. */
  get expectedMs(): readonly number[] {
    return [...this.#times.expectedMs];
  }

  /** Frees the memory. The model cannot be used any more. */
  close(): void {
    this.#backend?.close();
    this.#backend = null;
  }

  /**
   * Ends the images that were given so far after the stage that is running.
   *
   * They answer with the best so far, and `stoppedBy` "cancelled"; those that wait, after their
   * first stage. Images given later are not cancelled.
   */
  cancel(): void {
    this.#cancels++;
  }

  /**
   * The first answer that is good enough, or the best there is time for.
   *
   * The first stage always runs. A later stage is not begun if the time left is less than it has
   * lately taken here, which is learned from run to run. Between stages the page has its turn.
   *
   * @param image Pixels as `Uint8Array` of the network's size, or a picture of any size: an
   *   `ImageData`, an element, a frame, a file. It is scaled as the file says. Floats are taken as
   *   they are. Of a network with several inputs an object of arrays, named as in `inputs`.
   */
  async classify(image: Image | Blob, options: ClassifyOptions = {}): Promise<Answer> {
    checkNames(options, "deadlineMs", "thresholds", "patience", "signal");
    const job = this.#job(options, stageThresholds(this.info, options.thresholds));
    const tensors = await this.#prepare(image);
    return this.#inTurn(async () => {
      const pass = this.#open().begin(tensors);
      try {
        for (let i = 0; ; i++) {
          const [answer, goesOn] = this.#stage(pass, i, job);
          if (!goesOn) return answer;
          const stopped = await this.#rest(i, job, answer);
          if (stopped) return stopped;
        }
      } finally {
        pass.close();
      }
    });
  }

  /** As `classify`, but at once: nothing can cancel it, and the page waits. */
  classifySync(image: Image, options: Omit<ClassifyOptions, "signal"> = {}): Answer {
    checkNames(options, "deadlineMs", "thresholds", "patience");
    const job = this.#job(options, stageThresholds(this.info, options.thresholds));
    const pass = this.#open().begin(this.#preparer.prepare(image));
    try {
      for (let i = 0; ; i++) {
        const [answer, goesOn] = this.#stage(pass, i, job);
        if (!goesOn) return answer;
      }
    } finally {
      pass.close();
    }
  }

  /**
   * An answer after every stage, until the network or time ends.
   *
   * Stop reading when the answer is good enough: nothing further is computed. `stoppedBy` is `null`
   * in all but the last.
   */
  stream(image: Image | Blob, options: StreamOptions = {}): AsyncGenerator<Answer, void> {
    checkNames(options, "deadlineMs", "signal");
    const job = this.#job(options, null);
    const tensors = this.#prepare(image);
    tensors.catch(() => {}); // thrown where it is read
    const held: Held = {};
    const found = this.#stream(tensors, job, held);
    abandoned.register(found, held);
    return found;
  }

  async *#stream(given: Promise<Tensors>, job: Job, held: Held): AsyncGenerator<Answer, void> {
    const tensors = await given;
    const pass = (held.pass = this.#open().begin(tensors));
    try {
      for (let i = 0; ; i++) {
        const [answer, goesOn] = this.#stage(pass, i, job);
        yield answer;
        if (!goesOn) return;
        await platform.turn();
      }
    } finally {
      pass.close();
    }
  }

  /**
   * The answer of the file's single call, where exits are taken inside it. There is no deadline.
   *
   * @throws {RangeError} If the file was exported without one.
   */
  async predict(image: Image | Blob, options: PredictOptions = {}): Promise<Answer> {
    checkNames(options, "thresholds");
    const began = performance.now();
    this.#open();
    if (!this.#single) {
      throw new RangeError(
        "The file must be exported with `single_call=True`. Received: one without",
      );
    }
    const limits = stageThresholds(this.info, options.thresholds);
    const tensors = await this.#prepare(image);
    if (this.info.version < 3) tensors.set("x", tensors.get(OLD_INPUT)!).delete(OLD_INPUT);
    tensors.set("thresholds", Float32Array.from(limits));
    return this.#inTurn(async () => {
      const pass = this.#open().begin(tensors);
      let found: Result;
      try {
        found = pass.predict();
      } finally {
        pass.close();
      }
      const stage = this.exits.indexOf(found.exit);
      if (stage < 0) {
        throw new FileError(
          "`path` must be a whole TFLite model. Received: one whose single call leaves at exit " +
            `${found.exit}, which the file does not have`,
        );
      }
      return this.#predicted(found, stage, limits, began);
    });
  }

  #predicted(found: Result, stage: number, limits: number[], began: number): Answer {
    const { confidence, patience, agreement } = this.info;
    const plain = this.info.version < 3;
    const run = new Run({ confidence, thresholds: limits, networks: this.#networks, plain });
    const last = stage === this.exits.length - 1;
    const logits = this.#divided(found.logits, stage);
    let by = run.stoppedBy(stage, logits, 0, last ? null : 0);
    // not confident, as the single call reckons: answers agreed
    by ??= patience !== null || agreement ? "patience" : "confidence";
    return this.#answer(run, stage, by, found.cost, began);
  }

  /** Checks arguments; returns the image's rule and clock. */
  #job(options: ClassifyOptions, thresholds: number[] | null): Job {
    const [began, own] = [performance.now(), this.#cancels];
    this.#open();
    const { signal } = options;
    const { confidence, agreement, version } = this.info;
    const asked = thresholds !== null; // of a stream, only time and the network's end stop it
    const run = new Run({
      confidence,
      thresholds,
      patience: asked ? checkPatience(this.info, options.patience) : null,
      deadlineMs: checkDeadline(options.deadlineMs),
      networks: this.#networks,
      agreement: asked ? agreement : null,
      plain: version < 3,
    });
    const cancelled = () => this.#cancels !== own || Boolean(signal?.aborted);
    return { run, start: began, cancelled };
  }

  async #prepare(image: Image | Blob): Promise<Tensors> {
    const isFile = typeof Blob !== "undefined" && image instanceof Blob;
    return this.#preparer.prepare(isFile ? await decoded(image) : (image as Image));
  }

  /** Runs a function when those that were given before have ended. */
  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const found = this.#last.then(run);
    this.#last = found.catch(() => {});
    return found;
  }

  #divided(logits: Float64Array, stage: number): Float64Array {
    if (!logits.every(Number.isFinite)) {
      throw new RangeError(
        "The logits must be finite. Received: NaN or infinite ones, as the network computes them " +
          "of inputs that are too large for it",
      );
    }
    return logits.map((z) => z / this.#temperatures[stage]);
  }

  /** Runs a stage and learns how long it takes; returns its answer and whether to go on. */
  #stage(pass: Pass, i: number, { run, start: began, cancelled }: Job): [Answer, boolean] {
    this.#open();
    const before = performance.now();
    const { logits, cost } = pass.stage(i);
    const now = performance.now();
    this.#times.learn(i, now - before);
    const last = i === this.exits.length - 1;
    const next = last ? null : this.#times.expectedMs[i + 1];
    const scaled = this.#divided(logits, i);
    const by = run.stoppedBy(i, scaled, now - began, next, cancelled());
    if (by === "deadline") this.#missed(i, now - began, run);
    return [this.#answer(run, i, by, cost, began), by === null];
  }

  /** Gives the page its turn; returns the answer if the image was cancelled, or time ran out. */
  async #rest(i: number, { run, start: began, cancelled }: Job, answer: Answer) {
    await platform.turn();
    const now = performance.now() - began;
    const by = run.interruptedBy(now, this.#times.expectedMs[i + 1], cancelled());
    if (by === "deadline") this.#missed(i, now, run);
    return by && { ...answer, stoppedBy: by, elapsedMs: now };
  }

  /** A slow spell must not keep later images out of a stage for good. */
  #missed(i: number, elapsedMs: number, run: Run): void {
    if (run.interruptedBy(elapsedMs, 0, false) === null) this.#times.forgetSlowly(i + 1);
  }

  #answer(run: Run, stage: number, by: StoppedBy | null, cost: number | null, began: number) {
    const { class_names: names, macs, version } = this.info;
    const { label } = run;
    return {
      probabilities: Float32Array.from(run.probabilities),
      label,
      exit: this.exits[stage],
      stoppedBy: by,
      elapsedMs: performance.now() - began,
      className: names ? names[label] : null,
      cost: cost ?? (version < 3 || !macs ? null : macs[stage]),
    } satisfies Answer;
  }

  #open(): Backend {
    if (!this.#backend) {
      throw new Error("The model must be open. Received: a model that was closed");
    }
    return this.#backend;
  }

  /** Runs every stage a few times: the first run is slow, and times are learned. */
  async #warmUp(backend: Backend): Promise<void> {
    const black = this.inputs.map(({ name, shape, dtype }): [string, ArrayBufferView] => {
      const size = shape.reduce((product, n) => product * n, 1);
      const bytes = { float32: 4, int16: 2, int32: 4, int64: 8 }[dtype as string] ?? 1;
      return [name, new Uint8Array(size * bytes)];
    });
    const pass = backend.begin(new Map(black));
    try {
      await this.#times.measure((i) => void pass.stage(i), WARM_UP, () => platform.turn());
    } finally {
      pass.close();
    }
  }
}

async function contentOf(file: string | URL | Blob | Uint8Array | ArrayBuffer) {
  if (typeof file === "string" || file instanceof URL) return platform.read(file);
  if (typeof Blob !== "undefined" && file instanceof Blob) {
    const content = new Uint8Array(await file.arrayBuffer());
    return { content, name: file instanceof File ? file.name : nameOf(file) };
  }
  const kinds = "a URL, a Blob, a Uint8Array or an ArrayBuffer";
  // a copy: what is checked is then what runs, whatever the caller does with the array
  return { content: bytesOf(file, "file", kinds).slice(), name: nameOf(file) };
}

/** The network's inputs: of the info, or of version 2 what its stages read. */
function inputsOf({ info, signatures }: Checked): Input[] {
  if (info.inputs) return info.inputs;
  const stages = info.exits.map((_, i) => signatures.get(`stage_${i}`)!);
  const found = stages.find(({ inputs }) => inputs.has(OLD_INPUT))!.inputs.get(OLD_INPUT)!;
  return [{ name: OLD_INPUT, shape: [...found.shape!].slice(1), dtype: "float32" }];
}
