/** Checks operations that run other subgraphs: branches and loops. */

import type { Call, Graph } from "./graph.js";
import { checkCall, IF, NAMES } from "./operations.js";
import { needs, type Tensor } from "./tensor.js";

const DEPTH = 64; // conditions that a loop may join
const LONGEST = 2 ** 16; // steps of a loop

type Counters = Map<number, [number, number]>;

/** Checks a branch or a loop of subgraph `number`; returns how often it may run what it calls. */
export function calls(
  graphs: Graph[],
  number: number,
  call: Call,
  reads: (Tensor | null)[],
  writes: Tensor[],
): number {
  needs(!call.calls.includes(number), "calls itself");
  const [first, second] = call.calls.map((i) => graphs[i]);
  const of = (graph: Graph, numbers: number[]) => numbers.map((i) => graph.tensors[i]);
  const [into, given] = [of(first, first.inputs), of(first, first.outputs)];
  const [intoBody, givenByBody] = [of(second, second.inputs), of(second, second.outputs)];
  if (call.kind === IF) {
    const [condition, ...passed] = reads;
    needs(condition?.letter === "b", "has no condition");
    needs(condition.size === 1, "has several conditions");
    for (const graph of [first, second]) {
      needs(graph.counters === null, "runs the body of a loop");
    }
    for (const [taken, returned] of [[into, given], [intoBody, givenByBody]]) {
      checkCall(passed, taken);
      checkCall(writes, returned);
    }
    return 1;
  }
  const single = given.length === 1 && given[0].letter === "b" && given[0].size === 1;
  needs(single, "has no condition");
  for (const taken of [into, intoBody, givenByBody, writes]) checkCall(reads, taken);
  const counters = countersOf(first, second, reads);
  needs(counters.size > 0, "does not count its steps");
  const own = second.counters === null || same(second.counters, counters);
  needs(own, "runs the body of another loop");
  second.counters = counters;
  const steps = Math.min(...[...counters.values()].map(([low, high]) => high - low + 1));
  needs(steps <= LONGEST, "takes more steps than the exporter ever writes");
  return Math.max(steps, 0);
}

function same(a: Counters, b: Counters): boolean {
  return (
    a.size === b.size &&
    [...a].every(([place, [low, high]]) => {
      const other = b.get(place);
      return other?.[0] === low && other[1] === high;
    })
  );
}

/** The inputs of a loop that count its steps: from a constant on, to below another. */
function countersOf(condition: Graph, body: Graph, reads: (Tensor | null)[]): Counters {
  const makers = new Map<number, Call>();
  for (const call of condition.operations) for (const i of call.writes) makers.set(i, call);
  const ends = new Map<number, number>();
  const asked = [...condition.outputs];
  for (const number of asked) {
    // grows: both sides of an AND must hold
    const call = makers.get(number);
    if (!call || asked.length > DEPTH || call.reads.length !== 2) continue;
    const name = NAMES.get(call.kind);
    if (name === "LOGICAL_AND") {
      asked.push(...call.reads);
    } else if (name === "LESS" && condition.inputs.includes(call.reads[0])) {
      const end = only(condition.tensors[call.reads[1]]);
      if (end === null) continue;
      const place = condition.inputs.indexOf(call.reads[0]);
      ends.set(place, Math.min(end, ends.get(place) ?? end));
    }
  }
  const steps = new Map<number, number[]>();
  for (const call of body.operations) {
    const adds = NAMES.get(call.kind) === "ADD";
    if (adds && call.writes.length === 1 && call.reads.length === 2) {
      steps.set(call.writes[0], call.reads);
    }
  }
  const found: Counters = new Map();
  for (const [place, end] of ends) {
    const [a, b] = steps.get(body.outputs[place]) ?? [-1, -1];
    const start = only(reads[place]);
    const counts = a === body.inputs[place] && b >= 0 && only(body.tensors[b]) === 1;
    if (counts && start !== null) found.set(place, [start, end - 1]);
  }
  return found;
}

/** The number that a constant is, or `null`. */
function only(tensor: Tensor | null | undefined): number | null {
  const values = tensor?.values;
  return values?.length === 1 && values[0][0] === null ? values[0][1] : null;
}
