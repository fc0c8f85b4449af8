/**
 * What each operation of a .tflite file may read and write.
 *
 * An interpreter trusts the file: a kernel reads as many inputs, of such types and shapes, as the
 * converter gives its operation, and looks beyond the end of memory where it finds others. So each
 * kind that the exporter writes is here with the types of its tensors and the shapes that follow
 * from them; a file with anything else is refused before an interpreter sees it.
 */

import * as moves from "./moves.js";
import { tuple } from "./python.js";
import * as shapes from "./shapes.js";
import {
  needs, type Operation, product, same, type Shape, type Tensor, Unlike,
} from "./tensor.js";

const LARGEST = 2 ** 28; // numbers of a tensor
const [MUST, MAY] = [true, false]; // its options must be there, or may be left out

/**
 * Operation: its name, the number of its options, whether they must be there, the letters of what
 * it reads and writes (- for what is left out), and the shapes that follow.
 */
const KINDS = new Map<number, [string, number, boolean, RegExp, shapes.Rule]>([
  [0, ["ADD", 11, MUST, /^(?:([filq])\1>\1)$/, shapes.add]],
  [1, ["AVERAGE_POOL_2D", 5, MUST, /^(?:([fq])>\1)$/, shapes.pool]],
  [2, ["CONCATENATION", 10, MUST, /^(?:([fiulbwqc])\1*>\1)$/, moves.concatenate]],
  [3, ["CONV_2D", 1, MUST, /^(?:f[fqQ][f-]?>f|q[qQ][i-]?>q)$/, shapes.conv]],
  [4, ["DEPTHWISE_CONV_2D", 2, MUST, /^(?:f[fqQ]f>f|q[qQ]i>q)$/, shapes.depthwise]],
  [5, ["DEPTH_TO_SPACE", 94, MUST, /^(?:([fiulqc])>\1)$/, moves.spaceToDepth]],
  [6, ["DEQUANTIZE", 38, MAY, /^(?:[hqQ]>f)$/, shapes.asGiven]],
  [8, ["FLOOR", 0, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [9, ["FULLY_CONNECTED", 8, MUST, /^(?:f[fqQ][f-]?>f|q[qQ][i-]?>q)$/, shapes.dense]],
  [11, ["L2_NORMALIZATION", 12, MUST, /^(?:([fq])>\1)$/, shapes.alongLast]],
  [13, ["LOCAL_RESPONSE_NORMALIZATION", 13, MUST, /^(?:f>f)$/, moves.response]],
  [14, ["LOGISTIC", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [17, ["MAX_POOL_2D", 5, MUST, /^(?:([fq])>\1)$/, shapes.pool]],
  [18, ["MUL", 21, MUST, /^(?:([filq])\1>\1)$/, shapes.broadcasting(6)]],
  [19, ["RELU", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [20, ["RELU_N1_TO_1", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [21, ["RELU6", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [22, ["RESHAPE", 17, MAY, /^(?:([fiulbwqc])i?>\1)$/, moves.reshape]],
  [23, ["RESIZE_BILINEAR", 15, MUST, /^(?:([fq])i>\1)$/, moves.resize]],
  [25, ["SOFTMAX", 9, MUST, /^(?:([fq])>\1)$/, shapes.alongLast]],
  [26, ["SPACE_TO_DEPTH", 19, MUST, /^(?:([fiulqc])>\1)$/, moves.spaceToDepth]],
  [28, ["TANH", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [34, ["PAD", 22, MAY, /^(?:([fiulbwqc])[il]>\1)$/, moves.pad]],
  [36, ["GATHER", 23, MUST, /^(?:([fiulbwqc])[il]>\1)$/, moves.gather]],
  [37, ["BATCH_TO_SPACE_ND", 24, MAY, /^(?:([filuq])ii>\1)$/, moves.spaceToBatch]],
  [38, ["SPACE_TO_BATCH_ND", 25, MAY, /^(?:([filuq])ii>\1)$/, moves.spaceToBatch]],
  [39, ["TRANSPOSE", 26, MAY, /^(?:([fiulbwqc])i>\1)$/, moves.transpose]],
  [40, ["MEAN", 27, MUST, /^(?:([filq])i>\1)$/, shapes.reduce]],
  [41, ["SUB", 28, MUST, /^(?:([filq])\1>\1)$/, shapes.add]],
  [42, ["DIV", 29, MUST, /^(?:([fiq])\1>\1)$/, shapes.divide(5)]],
  [43, ["SQUEEZE", 30, MUST, /^(?:([fiulbwqc])>\1)$/, moves.squeeze]],
  [45, ["STRIDED_SLICE", 32, MUST, /^(?:([fiulbwqc])iii>\1)$/, moves.stridedSlice]],
  [47, ["EXP", 33, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [48, ["TOPK_V2", 34, MAY, /^(?:([filq])i>\1i)$/, moves.topK]],
  [49, ["SPLIT", 35, MUST, /^(?:i([fiulbwqc])>\1+)$/, moves.split]],
  [50, ["LOG_SOFTMAX", 36, MAY, /^(?:([fq])>\1)$/, shapes.alongLast]],
  [53, ["CAST", 37, MAY, /^(?:[filubwc]>[filubwc])$/, shapes.asGiven]],
  [54, ["PRELU", 0, MAY, /^(?:([fq])\1>\1)$/, shapes.prelu]],
  [55, ["MAXIMUM", 39, MAY, /^(?:([filuwq])\1>\1)$/, shapes.broadcasting(5)]],
  [56, ["ARG_MAX", 40, MUST, /^(?:[fiuqb][il]>[il])$/, shapes.arg]],
  [57, ["MINIMUM", 39, MAY, /^(?:([filuwq])\1>\1)$/, shapes.broadcasting(5)]],
  [58, ["LESS", 41, MAY, /^(?:([filq])\1>b)$/, shapes.compare]],
  [59, ["NEG", 42, MAY, /^(?:([fil])>\1)$/, shapes.asGiven]],
  [60, ["PADV2", 43, MAY, /^(?:([fiulbwqc])[il]\1>\1)$/, moves.pad]],
  [61, ["GREATER", 44, MAY, /^(?:([filq])\1>b)$/, shapes.compare]],
  [62, ["GREATER_EQUAL", 45, MAY, /^(?:([filq])\1>b)$/, shapes.compare]],
  [63, ["LESS_EQUAL", 46, MAY, /^(?:([filq])\1>b)$/, shapes.compare]],
  [64, ["SELECT", 47, MAY, /^(?:b([filubwq])\1>\1)$/, shapes.select]],
  [65, ["SLICE", 48, MAY, /^(?:([fiulbwqc])([il])\2>\1)$/, moves.slice]],
  [66, ["SIN", 0, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [67, ["TRANSPOSE_CONV", 49, MUST, /^(?:i[fqQ]f[f-]?>f|i[qQ]q[i-]?>q)$/, shapes.transposedConv]],
  [69, ["TILE", 51, MAY, /^(?:([fiulbwqc])[il]>\1)$/, moves.tile]],
  [70, ["EXPAND_DIMS", 52, MAY, /^(?:([fiulbwqc])[il]>\1)$/, moves.expand]],
  [71, ["EQUAL", 53, MAY, /^(?:([filbq])\1>b)$/, shapes.compare]],
  [72, ["NOT_EQUAL", 54, MAY, /^(?:([filbq])\1>b)$/, shapes.compare]],
  [73, ["LOG", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [74, ["SUM", 27, MUST, /^(?:([filq])i>\1)$/, shapes.reduce]],
  [75, ["SQRT", 0, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [76, ["RSQRT", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [77, ["SHAPE", 55, MUST, /^(?:[fiulbwqc]>[il])$/, moves.shapeOf]],
  [78, ["POW", 56, MAY, /^(?:([fi])\1>\1)$/, shapes.broadcasting(4)]],
  [79, ["ARG_MIN", 57, MUST, /^(?:[fiuqb][il]>[il])$/, shapes.arg]],
  [81, ["REDUCE_PROD", 27, MUST, /^(?:([filq])i>\1)$/, shapes.reduce]],
  [82, ["REDUCE_MAX", 27, MUST, /^(?:([filuq])i>\1)$/, shapes.reduce]],
  [83, ["PACK", 59, MUST, /^(?:([fiulbwqc])\1*>\1)$/, moves.pack]],
  [84, ["LOGICAL_OR", 60, MAY, /^(?:bb>b)$/, shapes.broadcasting(4)]],
  [85, ["ONE_HOT", 61, MUST, /^(?:[il]i([filubq])\1>\1)$/, moves.oneHot]],
  [86, ["LOGICAL_AND", 62, MAY, /^(?:bb>b)$/, shapes.broadcasting(4)]],
  [87, ["LOGICAL_NOT", 63, MAY, /^(?:b>b)$/, shapes.asGiven]],
  [88, ["UNPACK", 64, MUST, /^(?:([fiulbwqc])>\1+)$/, moves.unpack]],
  [89, ["REDUCE_MIN", 27, MUST, /^(?:([filuq])i>\1)$/, shapes.reduce]],
  [90, ["FLOOR_DIV", 65, MAY, /^(?:([fiwc])\1>\1)$/, shapes.divide(4)]],
  [91, ["REDUCE_ANY", 27, MUST, /^(?:bi>b)$/, shapes.reduce]],
  [92, ["SQUARE", 66, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [93, ["ZEROS_LIKE", 67, MAY, /^(?:([fil])>\1)$/, shapes.asGiven]],
  [94, ["FILL", 68, MAY, /^(?:[il]([filubwqc])>\1)$/, moves.fill]],
  [95, ["FLOOR_MOD", 72, MAY, /^(?:([filwc])\1>\1)$/, shapes.divide(4)]],
  [97, ["RESIZE_NEAREST_NEIGHBOR", 74, MUST, /^(?:([fq])i>\1)$/, moves.resize]],
  [98, ["LEAKY_RELU", 75, MUST, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [99, ["SQUARED_DIFFERENCE", 76, MAY, /^(?:([fiq])\1>\1)$/, shapes.squaredDifference]],
  [100, ["MIRROR_PAD", 77, MUST, /^(?:([fiulbwqc])[il]>\1)$/, moves.pad]],
  [101, ["ABS", 78, MAY, /^(?:([fiq])>\1)$/, shapes.asGiven]],
  [102, ["SPLIT_V", 79, MUST, /^(?:([fiulbwqc])[il]i>\1+)$/, moves.splitUnequal]],
  [104, ["CEIL", 0, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [105, ["REVERSE_V2", 81, MAY, /^(?:([fiulbwqc])i>\1)$/, moves.along]],
  [106, ["ADD_N", 82, MAY, /^(?:([fi])\1*>\1)$/, shapes.allSame]],
  [107, ["GATHER_ND", 83, MAY, /^(?:([fiulbwqc])[il]>\1)$/, moves.gatherNd]],
  [108, ["COS", 84, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [111, ["ELU", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [114, ["QUANTIZE", 89, MAY, /^(?:[fq]>q)$/, shapes.asGiven]],
  [116, ["ROUND", 0, MAY, /^(?:f>f)$/, shapes.asGiven]],
  [117, ["HARD_SWISH", 91, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [122, ["SCATTER_ND", 97, MAY, /^(?:i([filubq])i>\1)$/, moves.scatter]],
  [123, ["SELECT_V2", 98, MAY, /^(?:b([filubwq])\1>\1)$/, shapes.broadcasting(5)]],
  [126, ["BATCH_MATMUL", 101, MUST, /^(?:f[fq]>f|qq>q)$/, shapes.matmul]],
  [128, ["CUMSUM", 102, MUST, /^(?:([fil])i>\1)$/, moves.along]],
  [130, ["BROADCAST_TO", 104, MAY, /^(?:([fiulbwqc])[il]>\1)$/, moves.broadcastTo]],
  [132, ["CONV_3D", 106, MUST, /^(?:ff[f-]?>f)$/, shapes.conv3d]],
  [140, ["REDUCE_ALL", 27, MUST, /^(?:bi>b)$/, shapes.reduce]],
  [141, ["CONV_3D_TRANSPOSE", 106, MUST, /^(?:iff[f-]?>f)$/, shapes.transposedConv3d]],
  [147, ["BUCKETIZE", 115, MUST, /^(?:[fil]>i)$/, shapes.asGiven]],
  [150, ["GELU", 116, MUST, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [151, ["DYNAMIC_UPDATE_SLICE", 117, MAY, /^(?:([filbq])\1[il]>\1)$/, moves.update]],
  [152, ["RELU_0_TO_1", 0, MAY, /^(?:([fq])>\1)$/, shapes.asGiven]],
  [153, ["UNSORTED_SEGMENT_PROD", 118, MAY, /^(?:([fi])ii>\1)$/, moves.segments]],
  [154, ["UNSORTED_SEGMENT_MAX", 119, MAY, /^(?:([fi])ii>\1)$/, moves.segments]],
  [155, ["UNSORTED_SEGMENT_SUM", 121, MAY, /^(?:([fi])ii>\1)$/, moves.segments]],
  [156, ["ATAN2", 122, MAY, /^(?:ff>f)$/, shapes.allSame]],
  [157, ["UNSORTED_SEGMENT_MIN", 120, MAY, /^(?:([fi])ii>\1)$/, moves.segments]],
  [158, ["SIGN", 123, MAY, /^(?:f>f)$/, shapes.asGiven]],
]);

// where the activation is, that an operation applies at its end
const ACTIVATION: Record<number, number> = {
  0: 0, 1: 5, 2: 1, 3: 3, 4: 4, 9: 0, 11: 0, 17: 5, 18: 0, 41: 0, 42: 0, 67: 3, 132: 4, 141: 4,
};
const ACTIVATIONS = 4; // none, relu, relu from -1 to 1, relu6
// what each number of the output is multiplied from: an input and the axes that are summed over
const SUMS: Record<number, [number, number[]]> = {
  3: [1, [1, 2, 3]],
  4: [1, [1, 2]],
  9: [1, [1]],
  67: [1, [1, 2, 3]],
  132: [1, [0, 1, 2, 3]],
  141: [1, [0, 1, 2, 4]],
};

export const IF = 118;
export const WHILE = 119;
export const NAMES = new Map<number, string>([[IF, "IF"], [WHILE, "WHILE"]]);
/** The number of an operation's options, and whether they must be there. */
export const OPTIONS = new Map<number, [number, boolean]>([[IF, [92, MUST]], [WHILE, [93, MUST]]]);
for (const [kind, [name, options, must]] of KINDS) {
  NAMES.set(kind, name);
  OPTIONS.set(kind, [options, must]);
}

/**
 * Throws `Unlike` if an operation's tensors are not as its kernel takes them for granted; returns
 * about how many multiplications and moves it takes.
 */
export function check(o: Operation): number {
  const reads = o.inputs.map((tensor) => tensor?.letter ?? "-").join("");
  const writes = o.outputs.map((tensor) => tensor.letter).join("");
  const [, , , pattern, rule] = KINDS.get(o.kind)!;
  if (!pattern.test(`${reads}>${writes}`)) {
    throw new Unlike("reads or writes tensors of other types, or another number of them");
  }
  if (o.kind in ACTIVATION) {
    const activation = o.options(ACTIVATION[o.kind], "b");
    needs(0 <= activation && activation < ACTIVATIONS, "has an impossible option");
  }
  const found = rule(o);
  found.forEach((shape, i) => {
    const out = o.outputs[i];
    needs(product(shape) <= LARGEST, "writes more than a device can hold");
    if (out.part) return;
    const written = out.shape ?? [];
    const fits = out.shape !== null && same(written, shape);
    needs(fits, `writes [${written.join(", ")}] where it computes ${tuple(shape)}`);
  });
  passOn(o);
  let work = 0;
  for (const tensor of [...o.inputs, ...o.outputs]) work += tensor?.size ?? 0;
  if (o.kind === 126) work += product(found[0]) * Math.max(...o.shape(0).slice(-2));
  if (o.kind in SUMS) {
    const [number, axes] = SUMS[o.kind];
    const moved: Shape = shapes.TRANSPOSED.includes(o.kind) ? o.shape(2) : found[0];
    work += product(moved) * product(axes.map((axis) => o.shape(number)[axis]));
  }
  return work;
}

/** Keeps what is known of a counter: one more than it, or the same in another shape. */
function passOn(o: Operation): void {
  const out = o.outputs[0];
  if (o.kind === 22 && o.given(0).values) {
    out.values = o.given(0).values;
  } else if (o.kind === 0 && "il".includes(out.letter) && out.size === 1) {
    const [a, b] = [o.given(0).values, o.given(1).values];
    if (a?.length === 1 && b?.length === 1 && (a[0][0] === null || b[0][0] === null)) {
      const counter = a[0][0] ?? b[0][0];
      if (counter !== null) out.values = [[counter, a[0][1] + b[0][1]]];
    }
  }
}

/** Throws `Unlike` unless tensors that pass into or out of a subgraph are as it has them. */
export function checkCall(
  given: readonly (Tensor | null | undefined)[],
  taken: readonly (Tensor | null | undefined)[],
): void {
  needs(given.length === taken.length, "it passes another number of tensors");
  given.forEach((a, i) => {
    const b = taken[i];
    needs(Boolean(a && b && a.shape), "it passes nothing");
    const shaped = b!.shape !== null && same(a!.shape!, b!.shape);
    const letters = a!.letter.replace("c", "q") === b!.letter.replace("c", "q");
    needs(shaped && letters, "it passes tensors of other shapes or types");
  });
}
