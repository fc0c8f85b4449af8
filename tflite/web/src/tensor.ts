/** Tensors and operations as the check of a file sees them. */

export type Shape = readonly number[];

/** An integer that is known: a number, or a counter (its input's place) plus a number. */
export type Value = readonly [counter: number | null, number: number];

/** An operation is not as the exporter writes it. */
export class Unlike extends Error {}

export function needs(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Unlike(what);
}

export function product(numbers: Shape): number {
  let found = 1;
  for (const number of numbers) found *= number;
  return found;
}

export function same(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

/**
 * A tensor as an operation sees it.
 *
 * `letter` is its type: f float32, h float16, i int32, l int64, w int16, u uint8, b boolean; c int8
 * that counts, q int8 of one scale, Q int8 of a scale per channel. Its `shape` is `null` if it is a
 * part of a list, which grows from step to step.
 */
export class Tensor {
  /** What is known of it, if it is a constant of few integers, or a counter. */
  values: Value[] | null = null;
  scale = 0;
  dimension = 0;
  /** Its bytes, if it is a constant of integers. */
  data: DataView | null = null;
  /** Of a list: the list, and where its head ends or its tail begins. */
  part: { whole: Tensor; side: "head" | "tail"; place: Value } | null = null;

  constructor(
    public letter: string,
    readonly shape: Shape | null,
    readonly constant = false,
  ) {}

  get size(): number {
    return product(this.shape ?? []);
  }

  /** The integers of a constant. */
  integers(): number[] {
    const { data, letter } = this;
    if (!data) return [];
    const size = { i: 4, l: 8, w: 2 }[letter] ?? 1;
    return Array.from({ length: Math.floor(data.byteLength / size) }, (_, i) => {
      if (letter === "i") return data.getInt32(4 * i, true);
      if (letter === "l") return Number(data.getBigInt64(8 * i, true));
      if (letter === "w") return data.getInt16(2 * i, true);
      return letter === "u" ? data.getUint8(i) : data.getInt8(i);
    });
  }

  /** The least and the greatest integer of a constant of integers. */
  get bounds(): [number, number] | null {
    if (!this.data?.byteLength) return null;
    let low = Infinity;
    let high = -Infinity;
    for (const number of this.integers()) {
      low = Math.min(low, number);
      high = Math.max(high, number);
    }
    return [low, high];
  }
}

/** Reads a number of an operation's options; absent ones are `otherwise`. */
export type Options = (field: number, kind?: "b" | "i", otherwise?: number) => number;

/** An operation with its tensors. */
export class Operation {
  constructor(
    readonly kind: number,
    readonly inputs: (Tensor | null)[],
    readonly outputs: Tensor[],
    readonly options: Options,
    readonly optionVector: (field: number) => number[],
    /** In the body of a loop: place of a counter to its least and greatest number. */
    readonly counters: Map<number, [number, number]>,
  ) {}

  given(number: number): Tensor {
    const tensor = this.inputs[number];
    if (!tensor) throw new Unlike("reads what is not there");
    return tensor;
  }

  shape(number = 0): Shape {
    const { shape } = this.given(number);
    if (!shape) throw new Unlike("reads a part of a list");
    return shape;
  }

  shapes(): Shape[] {
    return this.inputs.map((_, i) => this.shape(i));
  }

  has(number: number): boolean {
    return number < this.inputs.length && this.inputs[number] !== null;
  }

  /** The values of a constant, a vector or one number. */
  numbers(number: number, length?: number): number[] {
    const tensor = this.given(number);
    const { values } = tensor;
    if (!values || values.some(([counter]) => counter !== null)) {
      throw new Unlike("does not read a constant where it must");
    }
    const many = length !== undefined && values.length !== length;
    if ((tensor.shape ?? []).length > 2 || many) {
      throw new Unlike("reads a constant of another length");
    }
    return values.map(([, value]) => value);
  }

  number(number: number): number {
    return this.numbers(number, 1)[0];
  }
}
