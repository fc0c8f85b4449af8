/**
 * Checks the structure of a .tflite file before an interpreter opens it.
 *
 * A file that was cut, damaged or forged would crash the interpreter, and the page with it: in a
 * file that `check` accepts, every offset is inside the file, every number of a tensor, buffer,
 * operation or subgraph within its list, and every operation as the exporter writes it. The check's
 * own work is bounded, whatever the file says. It follows the public schema of TFLite.
 */

import { Damaged, METADATA, root, Table, within } from "./flatbuffer.js";
import { calls as checkCalls } from "./calls.js";
import { type Call, Graph } from "./graph.js";
import * as operations from "./operations.js";
import { Operation, product, type Shape, Tensor, Unlike } from "./tensor.js";

// by the number of a type: its letter and its bytes
const TYPES = new Map<number, [string, number]>([
  [0, ["f", 4]],
  [1, ["h", 2]],
  [2, ["i", 4]],
  [3, ["u", 1]],
  [4, ["l", 8]],
  [6, ["b", 1]],
  [7, ["w", 2]],
  [9, ["c", 1]],
]);
const SIZES: Record<string, number> = { ...Object.fromEntries(TYPES.values()), q: 1, Q: 1 };
// what is more than this was not written by the exporter
const OPERATIONS = 20_000;
const EXPANDED = 200_000; // operations, counted once per path of calls that leads to them
const SUBGRAPHS = 5_000;
const KINDS = 1_000; // of operations, versions counted
const SIGNATURES = 1_100;
const DEPTH = 64; // of subgraphs that call subgraphs
const INPUT = 2 ** 24; // numbers of an input of the network
const MOST_WORK = 2 ** 39; // multiplications of a signature
const MOST_BYTES = 2 ** 32; // of what a device must hold at once

export interface Signature {
  inputs: Map<string, Tensor>;
  outputs: Map<string, Tensor>;
}

/** Signatures by name; throws `Damaged` if an interpreter could not read the file safely. */
export function check(content: Uint8Array): Map<string, Signature> {
  const model = root(content);
  model.refuse([8, 9], "data in other files");
  const buffers = model.tables(4).map(bufferOf);
  const codes = model.tables(1, KINDS).map(kindOf);
  const tables = model.tables(2, SUBGRAPHS);
  if (!tables.length) throw new Damaged("there is no subgraph");
  const graphs: Graph[] = [];
  let count = 0;
  for (const table of tables) {
    const graph = graphOf(table, buffers, codes, tables.length);
    graphs.push(graph);
    count += graph.operations.length;
    if (count > OPERATIONS) {
      throw new Damaged("it has more operations than the exporter ever writes");
    }
  }
  const order = callersFirst(graphs.map((graph) => graph.operations.flatMap((o) => o.calls)));
  for (const number of order) checkGraph(graphs, number);
  checkWork(graphs, order);
  const passing = passingOf(graphs);
  if (graphs.some((graph, i) => graph.silent && !passing.has(i))) {
    throw new Damaged("nothing computes an output");
  }
  for (const entry of model.tables(6, METADATA)) {
    entry.vector(0);
    within([entry.number(1, "I")], buffers.length, "a buffer");
  }
  const found = new Map<string, Signature>();
  for (const signature of model.tables(7, SIGNATURES)) {
    const name = signature.text(2);
    if (found.has(name)) throw new Damaged("a signature is there twice");
    found.set(name, signatureOf(signature, graphs));
  }
  return found;
}

/** Where the data of a buffer is, and how long. */
function bufferOf(table: Table): [number, number] {
  if (table.number(1, "Q") || table.number(2, "Q")) {
    throw new Damaged("data lies outside the model");
  }
  return table.vector(0);
}

/** The number of a builtin operation. */
function kindOf(code: Table): number {
  code.refuse([1], "a custom operation");
  return Math.max(code.number(0, "b"), code.number(3));
}

function signatureOf(signature: Table, graphs: Graph[]): Signature {
  const number = signature.number(4, "I");
  within([number], graphs.length, "a subgraph");
  const graph = graphs[number];
  if (graph.silent) throw new Damaged("nothing computes an output");
  if (graph.inputs.some((i) => graph.tensors[i].size > INPUT)) {
    throw new Damaged("an input is larger than any that the exporter writes");
  }
  const [inputs, outputs] = [graph.inputs, graph.outputs].map((wanted, side) => {
    const entries = signature.tables(side);
    const numbers = entries.map((entry) => entry.number(1, "I"));
    const names = entries.map((entry) => entry.text(0));
    const [passed, named] = [new Set(wanted), new Set(numbers)];
    if (new Set(names).size < names.length || numbers.some((n) => !passed.has(n))) {
      throw new Damaged("a signature names a tensor that its subgraph does not pass");
    }
    const complete = numbers.length === wanted.length && wanted.every((n) => named.has(n));
    if (side === 0 && !complete) throw new Damaged("a signature leaves out an input");
    return new Map(names.map((name, i) => [name, graph.tensors[numbers[i]]]));
  });
  return { inputs, outputs };
}

// ---- tensors

function tensorOf(table: Table, buffers: [number, number][]): Tensor {
  const shape = table.numbers(0);
  const type = TYPES.get(table.number(1, "b"));
  if (!type) throw new Damaged("a tensor is of a type that the exporter does not write");
  const [letter, size] = type;
  const buffer = table.number(2, "I");
  within([buffer], buffers.length, "a buffer");
  const impossible = shape.length > 8 || shape.some((n) => n < 0 || n >= 2 ** 28);
  if (impossible || product(shape) >= 2 ** 31) {
    throw new Damaged("a tensor has an impossible shape");
  }
  const [start, length] = buffers[buffer];
  if (length && length !== size * product(shape)) {
    throw new Damaged("a constant is not as long as its shape says");
  }
  table.vector(3);
  table.refuse([9], "a tensor of variants");
  if (table.table(6) || table.number(5, "b") || table.number(10, "I")) {
    throw new Damaged("a tensor is of a kind that the exporter does not write");
  }
  const grows = table.numbers(7).some((n) => n < 0);
  const constant = length > 0 || (shape.includes(0) && !grows);
  const tensor = new Tensor(letter, grows && !length ? null : shape, constant);
  if (constant && "iluwc".includes(letter)) {
    const { content, view } = table.source;
    tensor.data = new DataView(content.buffer, view.byteOffset + start, length);
    table.source.spend(Math.floor(length / 4096));
    if ("il".includes(letter) && product(shape) <= 64) {
      tensor.values = tensor.integers().map((n) => [null, n]);
    }
  }
  const quantization = table.table(4);
  if (quantization) quantize(tensor, quantization, shape);
  return tensor;
}

/** Checks the scales of a tensor and keeps what operations need of them. */
function quantize(tensor: Tensor, quantization: Table, shape: Shape): void {
  if (quantization.number(4, "B")) {
    throw new Damaged("a tensor is of a kind that the exporter does not write");
  }
  quantization.vector(0, 4);
  quantization.vector(1, 4);
  const [scales, zeros] = [quantization.numbers(2, "f"), quantization.numbers(3, "q")];
  const unmatched = zeros.length !== 0 && zeros.length !== scales.length;
  if (unmatched || scales.some((scale) => !(1e-30 < scale && scale < 1e30))) {
    throw new Damaged("a scale is impossible");
  }
  if (scales.length > 1) {
    tensor.dimension = quantization.number(6);
    within([tensor.dimension], shape.length, "a dimension");
    if (scales.length !== shape[tensor.dimension]) {
      throw new Damaged("there is not one scale per channel");
    }
  }
  if (scales.length && tensor.letter === "c") {
    if (zeros.length !== scales.length || zeros.some((zero) => !(-128 <= zero && zero <= 127))) {
      throw new Damaged("a zero point is impossible");
    }
    tensor.letter = scales.length === 1 ? "q" : "Q";
    tensor.scale = scales.length === 1 ? scales[0] : 0;
  }
}

// ---- subgraphs

/** A subgraph; every number in it is within its list. */
function graphOf(
  table: Table,
  buffers: [number, number][],
  codes: number[],
  subgraphs: number,
): Graph {
  const tensors = table.tables(0).map((tensor) => tensorOf(tensor, buffers));
  const [inputs, outputs] = [table.numbers(1), table.numbers(2)];
  table.vector(4);
  within([...inputs, ...outputs], tensors.length, "a tensor");
  if (new Set(inputs).size < inputs.length || inputs.some((i) => tensors[i].constant)) {
    throw new Damaged("an input is a constant, or there twice");
  }
  const found = table.tables(3).map((each) => callOf(each, tensors, codes, subgraphs));
  return new Graph(tensors, inputs, outputs, found);
}

function callOf(operator: Table, tensors: Tensor[], codes: number[], subgraphs: number): Call {
  const number = operator.number(0, "I");
  within([number], codes.length, "an operation");
  const kind = codes[number];
  const name = operations.NAMES.get(kind);
  if (!name) throw new Damaged(`operation ${kind} is none that the exporter writes`);
  const [reads, writes] = [operator.numbers(1), operator.numbers(2)];
  within(reads, tensors.length, "a tensor", -1);
  within(writes, tensors.length, "a tensor");
  operator.refuse([5, 7, 8], "an operation of its own kind");
  if (operator.number(9, "Q") || operator.number(10, "Q") || operator.number(11, "B")) {
    throw new Damaged("an operation has options that the exporter does not write");
  }
  const [expected, must] = operations.OPTIONS.get(kind)!;
  const [options, found] = [operator.table(4), operator.number(3, "B")];
  const allowed = found === expected || (found === 0 && !must);
  if ((options === null) !== (found === 0) || !allowed) {
    throw new Damaged(`${name} has no options of its own`);
  }
  let calls: number[] = [];
  if (options && (kind === operations.IF || kind === operations.WHILE)) {
    calls = [options.number(0), options.number(1)];
    within(calls, subgraphs, "a subgraph");
  }
  return { kind, reads, writes, options, calls };
}

/** Checks what the operations of a subgraph read and write; its callers were before it. */
function checkGraph(graphs: Graph[], number: number): void {
  const graph = graphs[number];
  const { tensors } = graph;
  const counters = graph.counters ?? new Map<number, [number, number]>();
  for (const place of counters.keys()) tensors[graph.inputs[place]].values = [[place, 0]];
  const known = new Set(graph.inputs);
  tensors.forEach((tensor, i) => tensor.constant && known.add(i));
  graph.operations.forEach((call, place) => {
    if (call.reads.some((i) => i !== -1 && !known.has(i))) {
      throw new Damaged("an operation reads what nothing has computed");
    }
    const twice = new Set(call.writes).size < call.writes.length;
    if (twice || call.writes.some((i) => known.has(i))) {
      throw new Damaged("an operation overwrites a tensor");
    }
    for (const i of call.writes) known.add(i);
    const reads = call.reads.map((i) => (i < 0 ? null : tensors[i]));
    const writes = call.writes.map((i) => tensors[i]);
    const { options } = call;
    try {
      if (call.calls.length) {
        graph.repeats.set(place, checkCalls(graphs, number, call, reads, writes));
      } else {
        const numberOf = (field: number, kind: "b" | "i" = "i", otherwise = 0) =>
          options ? options.number(field, kind, otherwise) : otherwise;
        const vectorOf = (field: number) => (options ? options.numbers(field) : []);
        const seen = new Operation(call.kind, reads, writes, numberOf, vectorOf, counters);
        graph.work += operations.check(seen);
      }
    } catch (error) {
      if (!(error instanceof Unlike)) throw error;
      const name = operations.NAMES.get(call.kind);
      throw new Damaged(`operation ${place} of subgraph ${number}, ${name}, ${error.message}`);
    }
  });
  graph.silent = graph.outputs.some((i) => !known.has(i));
  graph.bytes = mostBytes(graph);
}

/** How many bytes of a subgraph's tensors are needed at once. */
function mostBytes(graph: Graph): number {
  const bytes = (i: number) => SIZES[graph.tensors[i].letter] * graph.tensors[i].size;
  const last = new Map<number, number>();
  graph.operations.forEach((call, n) => call.reads.forEach((i) => last.set(i, n)));
  const held = new Set([...graph.inputs, ...graph.outputs]);
  let now = 0;
  for (const i of held) now += bytes(i);
  let most = now;
  graph.operations.forEach((call, n) => {
    for (const i of new Set(call.writes)) if (!held.has(i)) now += bytes(i);
    most = Math.max(most, now);
    for (const i of new Set([...call.reads, ...call.writes])) {
      const done = (last.get(i) ?? n) === n && !held.has(i);
      if (done && i >= 0 && !graph.tensors[i].constant) now -= bytes(i);
    }
  });
  return most;
}

/**
 * The branches that only pass values on: those of a stage that a sample skips.
 *
 * What the stage would have given has a place in the caller's memory, where nothing is written and
 * nobody reads. So it may only be called where a condition holds.
 */
function passingOf(graphs: Graph[]): Set<number> {
  const calls = graphs.flatMap((graph) => graph.operations.map((call) => call.calls));
  const pairs = calls.filter((pair) => pair.length);
  const no = new Set(pairs.map(([, otherwise]) => otherwise));
  const yes = pairs.map(([then]) => then);
  return new Set(yes.filter((i) => i && !no.has(i) && !graphs[i].operations.length));
}

/** The numbers of subgraphs, callers before what they call. */
function callersFirst(calls: number[][]): number[] {
  const finished: number[] = [];
  const depths = new Map<number, number>(); // of calls below; -1 while it is being visited

  function visit(number: number, above: number): number {
    if (depths.get(number) === -1 || above > DEPTH) {
      throw new Damaged("a subgraph calls itself");
    }
    if (!depths.has(number)) {
      depths.set(number, -1);
      let depth = 0;
      for (const i of new Set(calls[number])) depth = Math.max(depth, visit(i, above + 1) + 1);
      depths.set(number, depth);
      finished.push(number);
    }
    const depth = depths.get(number)!;
    if (above + depth > DEPTH) throw new Damaged("subgraphs call each other too deep");
    return depth;
  }

  for (let number = 0; number < calls.length; number++) visit(number, 0);
  return finished.reverse();
}

/** Throws `Damaged` if running the file takes more than any device has. */
function checkWork(graphs: Graph[], order: number[]): void {
  const works = new Map<number, number>();
  const counts = new Map<number, number>();
  for (const number of [...order].reverse()) {
    const graph = graphs[number];
    let [work, count] = [graph.work, 1 + graph.operations.length];
    for (const [place, times] of graph.repeats) {
      for (const i of graph.operations[place].calls) {
        work += times * works.get(i)!;
        count += counts.get(i)!;
      }
    }
    if (work > MOST_WORK || count > EXPANDED) {
      throw new Damaged("it takes more work than any that the exporter writes");
    }
    works.set(number, work);
    counts.set(number, count);
  }
  if (graphs.reduce((total, graph) => total + graph.bytes, 0) > MOST_BYTES) {
    throw new Damaged("it takes more memory than any that the exporter writes");
  }
}
