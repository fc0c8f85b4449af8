/** The shapes that follow where an operation moves numbers: cuts, joins, gathers, pads. */

import {
  allSame, axisOf, broadcast, least, type Rule, writtenAs,
} from "./shapes.js";
import { needs, type Operation, product, same, type Shape, type Value } from "./tensor.js";

const NOT_THERE = "takes a part that is not there";
const OPTION = "has an impossible option";
const MARGINS = "has impossible margins";
const DIMENSIONS = "reads shapes of other dimensions";
const UNFIT = "reads shapes that do not fit each other";

const range = (length: number) => Array.from({ length }, (_, i) => i);

export const reshape: Rule = (o) => {
  const size = product(o.shape());
  let found = o.has(1) ? o.numbers(1) : o.optionVector(0);
  const open = found.filter((n) => n === -1).length;
  const known = product(found.filter((n) => n !== -1));
  if (open === 1 && known > 0) found = found.map((n) => (n === -1 ? Math.floor(size / known) : n));
  needs(found.every((n) => n >= 0) && product(found) === size, "reshapes to another size");
  return [found];
};

export const squeeze: Rule = (o) => {
  const x = o.shape();
  let axes = new Set(o.optionVector(0).map((axis) => axisOf(axis, x.length)));
  if (!axes.size) axes = new Set(range(x.length).filter((i) => x[i] === 1));
  needs([...axes].every((axis) => x[axis] === 1), "leaves out an axis that is not single");
  return [x.filter((_, i) => !axes.has(i))];
};

export const expand: Rule = (o) => {
  const x = o.shape();
  const axis = axisOf(o.number(1), x.length + 1);
  return [[...x.slice(0, axis), 1, ...x.slice(axis)]];
};

export const transpose: Rule = (o) => {
  const x = o.shape();
  const order = o.numbers(1);
  const sorted = [...order].sort((a, b) => a - b);
  needs(same(sorted, range(x.length)) && x.length <= 6, "has an impossible order");
  return [order.map((axis) => x[axis])];
};

export const slice: Rule = (o) => {
  const x = o.shape();
  const values = [o.given(1).values, o.given(2).values];
  if (values.some((v) => v?.some(([counter]) => counter !== null))) return [part(o, x, values)];
  const [begin, size] = [o.numbers(1, x.length), o.numbers(2, x.length)];
  needs(x.length <= 5, "reads shapes of too many dimensions");
  const found = x.map((n, i) => (size[i] === -1 ? n - begin[i] : size[i]));
  const fits = x.every((n, i) => least(begin[i], found[i]) >= 0 && begin[i] + found[i] <= n);
  needs(fits, NOT_THERE);
  return [found];
};

/** Marks the part of a list before, or behind, the place that a step of a loop writes. */
function part(o: Operation, x: Shape, [begin, size]: (Value[] | null)[]): Shape {
  const unknown = "takes an unknown part";
  const out = o.outputs[0];
  needs(begin !== null && size !== null && out.shape === null, unknown);
  needs(begin.length === x.length && size.length === x.length, unknown);
  const all = (values: Value[], number: number) =>
    values.every(([counter, n]) => counter === null && n === number);
  const isHead = all(begin, 0) && all(size.slice(1), -1);
  const isTail = all(size, -1) && all(begin.slice(1), 0);
  needs(isHead || isTail, unknown);
  const place = (isHead ? size : begin)[0];
  const bounds = place[0] === null ? undefined : o.counters.get(place[0]);
  needs(bounds !== undefined, unknown);
  needs(bounds[0] + place[1] >= 0 && bounds[1] + place[1] <= x[0], NOT_THERE);
  out.part = { whole: o.given(0), side: isHead ? "head" : "tail", place };
  return x;
}

/** How many numbers a slice of Python takes of `n`. */
function sliced(n: number, first: number | null, last: number | null, step: number): number {
  const clip = (at: number, low: number, high: number) =>
    Math.min(Math.max(at < 0 ? at + n : at, low), high);
  if (step > 0) {
    const start = first === null ? 0 : clip(first, 0, n);
    const end = last === null ? n : clip(last, 0, n);
    return Math.max(0, Math.ceil((end - start) / step));
  }
  const start = first === null ? n - 1 : clip(first, -1, n - 1);
  const end = last === null ? -1 : clip(last, -1, n - 1);
  return Math.max(0, Math.ceil((start - end) / -step));
}

export const stridedSlice: Rule = (o) => {
  const x = o.shape();
  const begin = o.numbers(1);
  const [end, step] = [o.numbers(2, begin.length), o.numbers(3, begin.length)];
  const [begins, ends, ellipsis, fresh, shrink] = range(5).map((i) => o.options(i));
  const plain = !(ellipsis || fresh || o.options(5, "b"));
  needs(plain && begin.length <= x.length && x.length <= 5, OPTION);
  const found: number[] = [];
  x.forEach((n, i) => {
    if (i >= begin.length) {
      found.push(n);
      return;
    }
    needs(step[i] !== 0, OPTION);
    const open = [begins, ends].map((mask) => (mask >> i) & 1);
    if ((shrink >> i) & 1) {
      needs(step[i] > 0, OPTION);
      const place = open[0] ? 0 : begin[i];
      needs(-n <= place && place < n, NOT_THERE);
      return;
    }
    found.push(sliced(n, open[0] ? null : begin[i], open[1] ? null : end[i], step[i]));
  });
  return [found];
};

export const pad: Rule = (o) => {
  const x = o.shape();
  needs(same(o.shape(1), [x.length, 2]) && x.length <= 5, MARGINS);
  const margins = o.numbers(1);
  needs(least(...margins, Infinity) >= 0, MARGINS);
  needs(o.kind !== 60 || o.given(2).size === 1, "pads with several numbers");
  if (o.kind === 100) {
    const mode = o.options(0, "b");
    needs(mode === 0 || mode === 1, OPTION);
    needs(margins.every((margin, i) => margin <= x[i >> 1] - 1 + mode), MARGINS);
  }
  return [x.map((n, i) => n + margins[2 * i] + margins[2 * i + 1])];
};

/** Passes on what is known of each number that is joined. */
function joinValues(o: Operation): void {
  const values = o.inputs.map((tensor) => tensor?.values ?? null);
  if (values.every((v) => v !== null)) o.outputs[0].values = values.flat();
}

export const concatenate: Rule = (o) => {
  const parts = o.inputs.filter((tensor) => tensor !== null).map((tensor) => tensor.part);
  if (parts.some((each) => each)) return [setInList(o, parts)];
  const x = o.shape();
  const axis = axisOf(o.options(0), x.length);
  const shapes = o.shapes();
  const fits = shapes.every(
    (s) => s.length === x.length && s.every((n, i) => i === axis || n === x[i]),
  );
  needs(fits, UNFIT);
  if (x.length === 1) joinValues(o);
  const total = shapes.reduce((sum, shape) => sum + shape[axis], 0);
  return [x.map((n, i) => (i === axis ? total : n))];
};

/** The shape of a list of which a step of a loop has written one element anew. */
function setInList(o: Operation, [head, middle, tail, ...more]: Operation["outputs"][0]["part"][]) {
  const three = !more.length && head && middle === null && tail;
  needs(Boolean(three) && head !== null && tail !== null, "joins parts");
  const whole = head.whole.shape;
  const fits =
    head.side === "head" &&
    tail.side === "tail" &&
    head.whole === tail.whole &&
    tail.place[0] === head.place[0] &&
    tail.place[1] === head.place[1] + 1 &&
    o.options(0) === 0 &&
    whole !== null &&
    same(o.shape(1), [1, ...whole.slice(1)]);
  needs(fits && whole !== null, "joins parts that do not fit each other");
  return whole;
}

export const pack: Rule = (o) => {
  const [x] = allSame(o);
  needs(o.options(0) === o.inputs.length, OPTION);
  const axis = axisOf(o.options(1), x.length + 1);
  if (!x.length) joinValues(o);
  return [[...x.slice(0, axis), o.inputs.length, ...x.slice(axis)]];
};

export const unpack: Rule = (o) => {
  const x = o.shape();
  const axis = axisOf(o.options(1), x.length);
  needs(o.options(0) === x[axis] && x[axis] === o.outputs.length, OPTION);
  return o.outputs.map(() => x.filter((_, i) => i !== axis));
};

export const split: Rule = (o) => {
  const x = o.shape(1);
  const many = o.outputs.length;
  const axis = axisOf(o.number(0), x.length);
  needs(o.options(0) === many && x[axis] % many === 0, "splits into another number of parts");
  return o.outputs.map(() => x.map((n, i) => (i === axis ? n / many : n)));
};

export const splitUnequal: Rule = (o) => {
  const x = o.shape();
  const many = o.outputs.length;
  const axis = axisOf(o.number(2), x.length);
  let sizes = o.numbers(1, many);
  needs(o.options(0) === many, "splits into another number of parts");
  const total = sizes.reduce((sum, n) => sum + n, 0);
  if (sizes.filter((n) => n === -1).length === 1) {
    sizes = sizes.map((n) => (n === -1 ? x[axis] - total - 1 : n));
  }
  const sum = sizes.reduce((found, n) => found + n, 0);
  needs(least(...sizes) >= 0 && sum === x[axis], "splits into other sizes");
  return sizes.map((size) => x.map((n, i) => (i === axis ? size : n)));
};

export const gather: Rule = (o) => {
  const [x, index, batch] = [o.shape(0), o.shape(1), o.options(1)];
  const axis = axisOf(o.options(0), x.length);
  const { bounds } = o.given(1);
  const batched = 0 <= batch && batch <= Math.min(axis, index.length);
  needs(batched && same(x.slice(0, batch), index.slice(0, batch)), "has other batches");
  const inside = bounds === null || (0 <= bounds[0] && bounds[1] < x[axis]);
  needs(inside, "takes what is not there");
  return [[...x.slice(0, axis), ...index.slice(batch), ...x.slice(axis + 1)]];
};

export const gatherNd: Rule = (o) => {
  const [x, index] = [o.shape(0), o.shape(1)];
  const last = index[index.length - 1];
  needs(index.length >= 1 && 1 <= last && last <= x.length, "takes what is not there");
  return [[...index.slice(0, -1), ...x.slice(last)]];
};

export const tile: Rule = (o) => {
  const x = o.shape();
  const many = o.numbers(1, x.length);
  needs(least(...many, Infinity) > 0, OPTION);
  return [x.map((n, i) => n * many[i])];
};

export const broadcastTo: Rule = (o) => {
  const found = o.numbers(1);
  needs(same(broadcast(o.shape(), found), found), UNFIT);
  return [found];
};

export const fill: Rule = (o) => {
  needs(o.given(1).size === 1, "fills with several numbers");
  return [o.numbers(0)];
};

export const resize: Rule = (o) => {
  const [x, size] = [o.shape(), o.numbers(1, 2)];
  const aligned = o.kind === 23 ? 2 : 0;
  needs(x.length === 4 && least(...size) > 0, DIMENSIONS);
  needs(!(o.options(aligned, "b") && o.options(aligned + 1, "b")), OPTION);
  return [[x[0], ...size, x[3]]];
};

export const spaceToDepth: Rule = (o) => {
  const [x, block] = [o.shape(), o.options(0)];
  needs(x.length === 4 && block > 0, OPTION);
  if (o.kind === 26) {
    needs(x[1] % block === 0 && x[2] % block === 0, OPTION);
    return [[x[0], x[1] / block, x[2] / block, x[3] * block ** 2]];
  }
  needs(x[3] % block ** 2 === 0, OPTION);
  return [[x[0], x[1] * block, x[2] * block, x[3] / block ** 2]];
};

export const spaceToBatch: Rule = (o) => {
  const [x, block] = [o.shape(), o.numbers(1)];
  needs([3, 4].includes(x.length) && block.length === x.length - 2, DIMENSIONS);
  needs(same(o.shape(2), [block.length, 2]) && least(...block) > 0, OPTION);
  const edges = o.numbers(2);
  needs(least(...edges) >= 0, MARGINS);
  const many = product(block);
  const ends = block.map((_, i) => edges[2 * i] + edges[2 * i + 1]);
  const inner = x.slice(1, 1 + block.length);
  const last = x[x.length - 1];
  if (o.kind === 38) {
    needs(inner.every((n, i) => (n + ends[i]) % block[i] === 0), MARGINS);
    return [[x[0] * many, ...inner.map((n, i) => (n + ends[i]) / block[i]), last]];
  }
  const sizes = inner.map((n, i) => n * block[i] - ends[i]);
  needs(x[0] % many === 0 && least(...sizes) > 0, MARGINS);
  return [[x[0] / many, ...sizes, last]];
};

export const oneHot: Rule = (o) => {
  const [x, depth] = [o.shape(), o.number(1)];
  const axis = axisOf(o.options(0), x.length + 1);
  const single = o.given(2).size === o.given(3).size && o.given(3).size === 1;
  needs(depth >= 0 && single, OPTION);
  return [[...x.slice(0, axis), depth, ...x.slice(axis)]];
};

export const topK: Rule = (o) => {
  const [x, k] = [o.shape(), o.number(1)];
  needs(x.length >= 1 && 0 < k && k <= x[x.length - 1], "takes more than there is");
  const found = [...x.slice(0, -1), k];
  return [found, found];
};

export const along: Rule = (o) => {
  const x = o.shape();
  const axes = o.numbers(1);
  const found = new Set(axes.map((axis) => axisOf(axis, x.length)));
  const once = 0 < found.size && found.size === axes.length && axes.length <= 8;
  needs(once, "has no axis, or one twice");
  return [x];
};

export const scatter: Rule = (o) => {
  const [index, found] = [o.shape(0), o.numbers(2)];
  const last = index[index.length - 1];
  needs(index.length >= 1 && 1 <= last && last <= found.length, "writes what is not there");
  needs(least(...found) > 0, "writes what is not there");
  const wanted = [...index.slice(0, -1), ...found.slice(last)];
  needs(same(o.shape(1), wanted), "reads shapes that do not fit");
  return [found];
};

export const segments: Rule = (o) => {
  const [x, ids, many] = [o.shape(0), o.shape(1), o.number(2)];
  const { bounds } = o.given(1);
  needs(many > 0 && same(x.slice(0, ids.length), ids), UNFIT);
  const inside = bounds !== null && 0 <= bounds[0] && bounds[1] < many;
  needs(inside, "writes what is not there");
  return [[many, ...x.slice(ids.length)]];
};

export const update: Rule = (o) => {
  const [x, fresh] = [o.shape(0), o.shape(1)];
  needs(same(o.shape(2), [x.length]), "has a place of other dimensions");
  const fits = fresh.length === x.length && fresh.every((n, i) => n <= x[i]);
  needs(fits, "writes what is not there");
  return [x];
};

export const shapeOf: Rule = (o) => {
  writtenAs(o);
  return [[o.shape().length]];
};

export const response: Rule = (o) => {
  needs(o.shape().length === 4 && 0 <= o.options(0) && o.options(0) < 2 ** 16, OPTION);
  return [o.shape()];
};
