/** The shapes that follow from what an operation reads: its `Rule`. Others are in `moves.ts`. */

import { needs, type Operation, product, same, type Shape, type Tensor } from "./tensor.js";

export type Rule = (o: Operation) => Shape[];

export const TRANSPOSED = [67, 141];

export function axisOf(axis: number, rank: number): number {
  needs(-rank <= axis && axis < rank, "has an axis that is not there");
  return axis < 0 ? axis + rank : axis;
}

/** The least of some numbers, which there must be. */
export function least(...numbers: number[]): number {
  return Math.min(...numbers);
}

export const asGiven: Rule = (o) => [o.shape()];

export const alongLast: Rule = (o) => {
  needs(o.shape().length >= 1, "reads a single number");
  return [o.shape()];
};

export const allSame: Rule = (o) => {
  needs(o.shapes().every((shape) => same(shape, o.shape())), "reads different shapes");
  return [o.shape()];
};

export function broadcast(...shapes: Shape[]): Shape {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  const padded = shapes.map((shape) => [...Array<number>(rank - shape.length).fill(1), ...shape]);
  return Array.from({ length: rank }, (_, i) => {
    const wide = new Set(padded.map((shape) => shape[i]).filter((size) => size !== 1));
    needs(wide.size < 2, "reads shapes that do not fit each other");
    return [...wide][0] ?? 1;
  });
}

export const broadcasting = (rank: number): Rule => (o) => {
  const shapes = o.shapes();
  const found = broadcast(...shapes);
  const fits = found.length <= rank || shapes.every((shape) => same(shape, found));
  needs(fits, "reads shapes of too many dimensions");
  return [found];
};

export const compare: Rule = (o) => {
  needs([0, 1].every((i) => o.given(i).scale < 1), "has an impossible scale");
  return broadcasting(4)(o);
};

function twiceScale(o: Operation): number {
  return 2 * Math.max(o.given(0).scale, o.given(1).scale);
}

export const add: Rule = (o) => {
  const out = o.outputs[0];
  if (out.letter === "q") {
    // the runtime ends the program where this is 1 or more
    needs(twiceScale(o) < 2 ** 20 * out.scale, "has scales that do not fit each other");
  }
  return broadcasting(6)(o);
};

export const squaredDifference: Rule = (o) => {
  const out = o.outputs[0];
  if (out.letter === "q") {
    needs(twiceScale(o) ** 2 < 2 ** 14 * out.scale, "has scales that do not fit each other");
  }
  return broadcasting(4)(o);
};

export const divide = (rank: number): Rule => (o) => {
  const divisor = o.given(1);
  if ("ilwcu".includes(divisor.letter)) {
    // division by 0, and of the least number by -1, is a crash
    needs((divisor.bounds?.[0] ?? 0) > 0, "may divide by 0");
  }
  return broadcasting(rank)(o);
};

export const select: Rule = (o) => {
  const [condition, a, b] = [o.shape(0), o.shape(1), o.shape(2)];
  needs(same(a, b) && (same(condition, a) || !condition.length), "reads different shapes");
  return [a];
};

export const prelu: Rule = (o) => {
  const found = broadcasting(4)(o);
  needs(same(found[0], o.shape()), "reads shapes that do not fit each other");
  return found;
};

// ---- convolutions

function slid(size: number, kernel: number, stride: number, dilation: number, padding: number) {
  const fits = least(size, kernel, stride, dilation) > 0;
  needs(fits && Math.max(kernel, stride, dilation) < 2 ** 16, "has an impossible option");
  needs(padding === 0 || padding === 1, "has an impossible option");
  if (padding === 0) return Math.ceil(size / stride);
  const reach = (kernel - 1) * dilation + 1;
  needs(reach <= size, "slides a kernel that is larger than what it slides on");
  return Math.floor((size - reach) / stride) + 1;
}

const OTHER_DIMENSIONS = "reads shapes of other dimensions";
const OTHER_CHANNELS = "has weights for other channels";

function positive(rank: number, ...shapes: Shape[]): void {
  const fits = shapes.every((shape) => shape.length === rank && least(...shape) > 0);
  needs(fits, OTHER_DIMENSIONS);
}

/** Checks that weights of integers are constants, with scales along their outputs, and bias. */
function weights(o: Operation, number: number, channels: number, axis: number): void {
  const tensor: Tensor = o.given(number);
  if ("qQ".includes(tensor.letter)) {
    const fixed = tensor.constant || tensor.letter === o.outputs[0].letter;
    needs(fixed, "has weights that change");
    needs(tensor.letter === "q" || tensor.dimension === axis, "has scales of another axis");
  }
  const bias = number === 1 && !TRANSPOSED.includes(o.kind) ? 2 : 3;
  needs(!o.has(bias) || same(o.shape(bias), [channels]), "has a bias of another length");
}

export const conv: Rule = (o) => {
  const [x, w] = [o.shape(0), o.shape(1)];
  positive(4, x, w);
  const groups = Math.floor(x[3] / w[3]);
  needs(groups > 0 && x[3] % w[3] === 0 && w[0] % groups === 0, OTHER_CHANNELS);
  weights(o, 1, w[0], 0);
  const padding = o.options(0, "b");
  const high = slid(x[1], w[1], o.options(2), o.options(5, "i", 1), padding);
  const wide = slid(x[2], w[2], o.options(1), o.options(4, "i", 1), padding);
  return [[x[0], high, wide, w[0]]];
};

export const depthwise: Rule = (o) => {
  const [x, w] = [o.shape(0), o.shape(1)];
  positive(4, x, w);
  needs(w[0] === 1 && w[3] === x[3] * o.options(3), OTHER_CHANNELS);
  weights(o, 1, w[3], 3);
  const padding = o.options(0, "b");
  const high = slid(x[1], w[1], o.options(2), o.options(6, "i", 1), padding);
  const wide = slid(x[2], w[2], o.options(1), o.options(5, "i", 1), padding);
  return [[x[0], high, wide, w[3]]];
};

function slid3d(o: Operation, sizes: Shape, w: Shape): Shape {
  const steps = [1, 3, 2].map((i) => o.options(i));
  const apart = [5, 7, 6].map((i) => o.options(i, "i", 1));
  const padding = o.options(0, "b");
  return sizes.map((size, i) => slid(size, w[i], steps[i], apart[i], padding));
}

export const conv3d: Rule = (o) => {
  const [x, w] = [o.shape(0), o.shape(1)];
  positive(5, x, w);
  needs(x[4] === w[3], OTHER_CHANNELS);
  weights(o, 1, w[4], 4);
  return [[x[0], ...slid3d(o, x.slice(1, 4), w), w[4]]];
};

export const transposedConv: Rule = (o) => {
  const [out, w, x] = [o.numbers(0, 4), o.shape(1), o.shape(2)];
  positive(4, x, w, out);
  needs(x[3] === w[3] && out[3] === w[0] && out[0] === x[0], OTHER_CHANNELS);
  weights(o, 1, w[0], 0);
  const padding = o.options(0, "b");
  const high = slid(out[1], w[1], o.options(2), 1, padding);
  const wide = slid(out[2], w[2], o.options(1), 1, padding);
  needs(high === x[1] && wide === x[2], "writes another shape than it says");
  return [out];
};

export const transposedConv3d: Rule = (o) => {
  const [out, w, x] = [o.numbers(0, 5), o.shape(1), o.shape(2)];
  positive(5, x, w, out);
  needs(x[4] === w[4] && out[4] === w[3] && out[0] === x[0], OTHER_CHANNELS);
  weights(o, 1, w[3], 3);
  const back = slid3d(o, out.slice(1, 4), w);
  needs(same(back, x.slice(1, 4)), "writes another shape than it says");
  return [out];
};

export const pool: Rule = (o) => {
  const x = o.shape();
  needs(x.length === 4, OTHER_DIMENSIONS);
  const padding = o.options(0, "b");
  const high = slid(x[1], o.options(4), o.options(2), 1, padding);
  const wide = slid(x[2], o.options(3), o.options(1), 1, padding);
  return [[x[0], high, wide, x[3]]];
};

// ---- products and sums

export const dense: Rule = (o) => {
  const [x, w] = [o.shape(0), o.shape(1)];
  needs(w.length === 2 && x.length >= 1 && least(...x, ...w) > 0, OTHER_DIMENSIONS);
  needs(o.options(1, "b") === 0, "has an impossible option");
  weights(o, 1, w[0], 0);
  if (o.options(2, "b")) {
    needs(x[x.length - 1] === w[1], OTHER_CHANNELS);
    return [[...x.slice(0, -1), w[0]]];
  }
  needs(product(x) % w[1] === 0, OTHER_CHANNELS);
  return [[product(x) / w[1], w[0]]];
};

export const matmul: Rule = (o) => {
  const [x, y, out] = [o.shape(0), o.shape(1), o.outputs[0]];
  if (out.letter === "q") {
    // the runtime prepares no kernel for more, and runs it all the same
    const scales = o.given(0).scale * o.given(1).scale;
    needs(scales < 2 ** 8 * out.scale, "has scales that do not fit each other");
  }
  const ranks = [x.length, y.length];
  needs(Math.min(...ranks) >= 2 && Math.max(...ranks) <= 5, OTHER_DIMENSIONS);
  const fixed = o.given(1).letter === o.given(0).letter || o.given(1).constant;
  needs(fixed, "has weights that change");
  const ends = (shape: Shape, turned: number) =>
    turned ? [...shape.slice(-2)].reverse() : shape.slice(-2);
  const [rows, inner] = ends(x, o.options(0, "b"));
  const [inside, columns] = ends(y, o.options(1, "b"));
  needs(inner === inside, "reads shapes that do not fit each other");
  return [[...broadcast(x.slice(0, -2), y.slice(0, -2)), rows, columns]];
};

export const reduce: Rule = (o) => {
  const x = o.shape();
  const given = o.numbers(1);
  const axes = new Set(given.map((axis) => axisOf(axis, x.length)));
  needs(given.length <= 8, "has too many axes");
  if (o.options(0, "b")) return [x.map((size, i) => (axes.has(i) ? 1 : size))];
  return [x.filter((_, i) => !axes.has(i))];
};

export function writtenAs(o: Operation): void {
  const letter = { 2: "i", 4: "l" }[o.options(0, "b")];
  needs(letter === o.outputs[0].letter, "writes another type than its option says");
}

export const arg: Rule = (o) => {
  const x = o.shape();
  const axis = axisOf(o.number(1), x.length);
  needs(x[axis] > 0, "reads nothing");
  writtenAs(o);
  return [x.filter((_, i) => i !== axis)];
};
