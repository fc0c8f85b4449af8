/** What runs in a worker: models, and the calls that a page makes of them. */

import { AnytimeModel, type Answer } from "./anytime.js";
import type { Loaded, Request, Response } from "./protocol.js";

interface Scope {
  onmessage: ((event: { data: Request }) => void) | null;
  postMessage(response: Response): void;
}

const scope = globalThis as unknown as Scope;
const models = new Map<number, Promise<AnytimeModel>>();
const streams = new Map<number, AsyncGenerator<Answer, void>>();
const calls = new Map<number, AbortController>();

/** The signal of a call, which an "abort" finds by the call's number. */
function controlled({ id, aborted }: Request & { do: "classify" | "stream" }): AbortSignal {
  const controller = new AbortController();
  calls.set(id, controller);
  if (aborted) controller.abort();
  return controller.signal;
}

/** Frees a bitmap or a frame that came with a call: nobody else has it. */
function freed(image: unknown): void {
  if (image instanceof ImageBitmap) image.close();
  else if (typeof VideoFrame !== "undefined" && image instanceof VideoFrame) image.close();
}

async function load(request: Request & { do: "load" }): Promise<Loaded> {
  const { file, wasm, threads, model } = request;
  const found = AnytimeModel.load(file as Uint8Array, { wasm, threads });
  models.set(model, found);
  found.catch(() => models.delete(model));
  const { info, inputs } = await found;
  return { info, inputs: [...inputs] };
}

async function answered(request: Request): Promise<Answer | Loaded | undefined> {
  if (request.do === "load") return load(request);
  const model = await models.get(request.model)!;
  switch (request.do) {
    case "classify":
      try {
        const { image, options } = request;
        return await model.classify(image as Blob, { ...options, signal: controlled(request) });
      } finally {
        freed(request.image);
        calls.delete(request.id);
      }
    case "predict":
      try {
        return await model.predict(request.image as Blob, request.options);
      } finally {
        freed(request.image);
      }
    case "stream": {
      const { id, image, options } = request;
      streams.set(id, model.stream(image as Blob, { ...options, signal: controlled(request) }));
      freed(image);
      return undefined;
    }
    case "next": {
      const { value, done } = await streams.get(request.stream)!.next();
      if (done) left(request.stream);
      return value ?? undefined;
    }
  }
  return undefined;
}

function left(stream: number): void {
  void streams.get(stream)?.return();
  streams.delete(stream);
  calls.delete(stream);
}

async function respond(request: Request & { id: number }): Promise<void> {
  const { id } = request;
  try {
    scope.postMessage({ id, result: await answered(request) });
  } catch (error) {
    const { name, message } = error as Error;
    scope.postMessage({ id, error: { name, message } });
  }
}

scope.onmessage = ({ data: request }) => {
  if ("id" in request) void respond(request);
  else if (request.do === "abort") calls.get(request.call)?.abort();
  else if (request.do === "leave") left(request.stream);
  else {
    const { do: what, model } = request;
    void models.get(model)?.then((found) => (what === "cancel" ? found.cancel() : found.close()));
    if (what === "close") models.delete(model);
  }
};
