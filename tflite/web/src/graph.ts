/** A subgraph as the check of a file sees it. */

import type { Table } from "./flatbuffer.js";
import type { Tensor } from "./tensor.js";

/** An operation of a subgraph; `calls` are the subgraphs that it runs. */
export interface Call {
  kind: number;
  reads: number[];
  writes: number[];
  options: Table | null;
  calls: number[];
}

export class Graph {
  /** Whether nothing computes one of its outputs. */
  silent = false;
  /** In the body of a loop: place of an input that counts its steps to its least and greatest. */
  counters: Map<number, [number, number]> | null = null;
  /** What running it once takes. */
  work = 0;
  bytes = 0;
  /** How often an operation runs the subgraphs that it calls, by its place. */
  readonly repeats = new Map<number, number>();

  constructor(
    readonly tensors: Tensor[],
    readonly inputs: number[],
    readonly outputs: number[],
    readonly operations: Call[],
  ) {}
}
