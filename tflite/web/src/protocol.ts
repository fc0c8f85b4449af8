/** What a page and its worker say to each other. */

import type { Answer, ClassifyOptions, PredictOptions, StreamOptions } from "./anytime.js";
import type { Info, Input } from "./file.js";

/**
 * What is sent to the worker; `id` names a call, `model` a model. A call that was cancelled before
 * it was sent says so itself: a message of its own can come after a short call's end.
 */
export type Request =
  | { do: "load"; id: number; model: number; file: unknown; wasm?: string; threads?: number }
  | { do: "classify"; id: number; model: number; image: unknown; options: ClassifyOptions;
      aborted: boolean }
  | { do: "predict"; id: number; model: number; image: unknown; options: PredictOptions }
  | { do: "stream"; id: number; model: number; image: unknown; options: StreamOptions;
      aborted: boolean }
  | { do: "next"; id: number; model: number; stream: number }
  | { do: "leave"; model: number; stream: number }
  | { do: "abort"; model: number; call: number }
  | { do: "cancel"; model: number }
  | { do: "close"; model: number };

/** What a model in a worker says of itself. */
export interface Loaded {
  info: Info;
  inputs: Input[];
}

/** What comes back for the call `id`. */
export type Response = { id: number } & (
  | { result: Answer | Loaded | undefined }
  | { error: { name: string; message: string } }
);
