/** Checks that the signatures of a file are those that its `info` tells of. */

import { DTYPES } from "./info.js";
import { isObject, type Json, repr, tuple } from "./python.js";
import type { Signature } from "./structure.js";
import { same, type Shape, Tensor } from "./tensor.js";

/** The input's name in files of version 2, and `x` in their single call. */
export const OLD_INPUT = "input_0";

type Found = Record<string, Json>;
interface Named {
  name: string;
  shape?: number[];
  dtype: string;
}

const cut = (name: string) => repr([...name].slice(0, 80).join(""));

/** What in a file's signatures is not as its info, which was checked, says; or `null`. */
export function unlike(info: Found, signatures: Map<string, Signature>): string | null {
  const stages = (info.exits as Json[]).map((_, i) => `stage_${i}`);
  const missing = stages.find((key) => !signatures.has(key));
  if (missing) return `there is no signature ${repr(missing)}`;
  const known = new Set([...stages, "info", "predict"]);
  const strange = [...signatures.keys()].filter((key) => !known.has(key)).sort();
  if (strange.length) return `there is a signature ${cut(strange[0])}`;
  const named = inputsOf(info);
  const inputs = new Map<string, Tensor>();
  const computed = new Map<string, Tensor>();
  const first = signatures.get(stages[0])!.outputs.get("logits")?.shape;
  const classes = first?.length ? first[first.length - 1] : 0;
  for (const key of stages) {
    const { inputs: takes, outputs: gives } = signatures.get(key)!;
    for (const [name, tensor] of takes) {
      const before = computed.get(name);
      if (before) {
        if (!alike(tensor, before)) return `${key} reads ${cut(name)} unlike how it is computed`;
      } else if (!named.some((one) => one.name === name)) {
        return `${key} reads ${cut(name)}, which nothing computes`;
      } else if (!inputs.has(name)) {
        inputs.set(name, tensor);
      } else if (!alike(tensor, inputs.get(name)!)) {
        return `the stages read ${cut(name)} in different forms`;
      }
    }
    const wrong = wrongAnswer(gives, classes);
    if (wrong) return `${key} ${wrong}`;
    for (const [name, tensor] of gives) {
      if (name !== "logits" && name !== "cost") computed.set(name, tensor);
    }
  }
  const absent = named.find((one) => !inputs.has(one.name));
  if (absent) return `no stage reads the input ${repr(absent.name)}`;
  for (const one of named) {
    const { shape, letter } = inputs.get(one.name)!;
    const fits = shape?.[0] === 1 && (!one.shape || same(shape.slice(1), one.shape));
    if (!fits || letter !== DTYPES[one.dtype]) {
      const shown = shape ? tuple(shape) : "None";
      return `its input ${repr(one.name)} is of shape ${shown}, or a type, unlike its info`;
    }
  }
  return (
    wrongForClasses(info, classes) ??
    wrongForPixels(info, [...inputs.values()]) ??
    wrongSingleCall(info, signatures, inputs, classes)
  );
}

/** The network's inputs as the info says. */
function inputsOf(info: Found): Named[] {
  if (info.version === 2n) return [{ name: OLD_INPUT, dtype: "float32" }];
  return (info.inputs as Found[]).map(({ name, shape, dtype }) => ({
    name: name as string,
    shape: (shape as bigint[]).map(Number),
    dtype: dtype as string,
  }));
}

function alike(a: Tensor, b: Tensor): boolean {
  if (a.letter !== b.letter) return false;
  return a.shape === null || b.shape === null ? a.shape === b.shape : same(a.shape, b.shape);
}

function wrongAnswer(gives: Map<string, Tensor>, classes: number): string | null {
  const [logits, cost] = [gives.get("logits"), gives.get("cost")];
  const answers = logits?.letter === "f" && logits.shape && same(logits.shape, [1, classes]);
  if (!answers || classes < 2) return "does not return logits of two classes or more";
  if (cost && !alike(cost, new Tensor("f", [1]))) return "does not return its cost as one number";
  return null;
}

function wrongForClasses(info: Found, classes: number): string | null {
  const [names, stopping] = [info.class_names, info.stopping ?? null];
  if (Array.isArray(names) && names.length !== classes) {
    return `class_names are ${names.length} for ${classes} classes`;
  }
  const rows = (network: Json) => ((network as Found[])[0].shape as bigint[])[0];
  if (Array.isArray(stopping) && stopping.some((one) => Number(rows(one)) !== classes)) {
    return `stopping networks are not for ${classes} classes`;
  }
  return null;
}

function wrongForPixels(info: Found, inputs: Tensor[]): string | null {
  const image = inputs[0];
  const shape: Shape = image.shape?.slice(1) ?? [];
  const { preprocessing, pixels } = info;
  if (isObject(preprocessing)) {
    const channels = shape.length ? shape[shape.length - 1] : 1;
    const mean = preprocessing.mean as Json[];
    if (inputs.length > 1 || image.letter !== "f" || mean.length !== channels) {
      return `preprocessing is not for one float32 image of ${channels} channels`;
    }
  }
  if (isObject(pixels)) {
    const wanted = [pixels.height, pixels.width, pixels.channels].map(Number);
    if (!same(shape, wanted)) return `pixels are not for an image of shape ${tuple(shape)}`;
  }
  return null;
}

function wrongSingleCall(
  info: Found,
  signatures: Map<string, Signature>,
  inputs: Map<string, Tensor>,
  classes: number,
): string | null {
  const single = signatures.get("predict");
  if (!single) return null;
  const { inputs: takes, outputs: gives } = single;
  const wanted = info.version === 2n ? new Map([["x", inputs.get(OLD_INPUT)!]]) : new Map(inputs);
  wanted.set("thresholds", new Tensor("f", [(info.exits as Json[]).length]));
  const complete = takes.size === wanted.size &&
    [...wanted].every(([name, tensor]) => takes.has(name) && alike(takes.get(name)!, tensor));
  const index = gives.get("exit_index");
  if (!complete || !index || !alike(index, new Tensor("i", [1]))) {
    return "predict does not take the inputs and thresholds, or does not return an exit";
  }
  const wrong = wrongAnswer(gives, classes);
  return wrong ? `predict ${wrong}` : null;
}
