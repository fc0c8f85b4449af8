/**
 * The rule that decides when to stop: that of the host's policies, for one image at a time.
 *
 * A port of `rule.py`; `tflite/testdata` tests both.
 */

/** One layer of a learned stopping network: `kernel` has `rows` rows of `columns` numbers. */
export interface Layer {
  kernel: Float64Array;
  bias: Float64Array;
  rows: number;
  columns: number;
}

/** A learned stopping network: its three layers. */
export type Network = Layer[];

/** Why an image stopped. */
export type StoppedBy = "confidence" | "patience" | "deadline" | "cancelled" | "end";

/** Share of the answers, of `members` or more, that must name one class. */
export interface Agreement {
  members: number;
  share: number;
}

type Numbers = ArrayLike<number>;

const EPSILON = Number.EPSILON;

/** The index of the largest number, of equal ones the first. */
export function argmax(values: Numbers): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/** The probabilities of logits. */
export function softmax(logits: Numbers): Float64Array {
  const most = logits[argmax(logits)];
  const found = Float64Array.from(logits, (z) => Math.exp(z - most));
  const total = sum(found);
  return found.map((e) => e / total);
}

function sum(values: Numbers): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}

function descending(values: Numbers): Float64Array {
  return Float64Array.from(values).sort().reverse();
}

function margin(values: Numbers): number {
  const [first, second] = descending(values);
  return first - second;
}

function negativeEntropy(logits: Numbers): number {
  const most = logits[argmax(logits)];
  const shifted = Float64Array.from(logits, (z) => z - most);
  const exponentials = shifted.map(Math.exp);
  const total = sum(exponentials);
  return sum(exponentials.map((e, i) => e * shifted[i])) / total - Math.log(total);
}

/** Confidences by name, as users know them, each a function of the logits and their softmax. */
export const CONFIDENCES: Record<string, (logits: Numbers, probabilities: Numbers) => number> = {
  max_prob: (_, probabilities) => probabilities[argmax(probabilities)],
  prob_margin: (_, probabilities) => margin(probabilities),
  logit_margin: (logits) => margin(logits),
  entropy: (logits) => negativeEntropy(logits),
};

// ---- the same confidences in a form that keeps its digits where probabilities are nearly 1

interface Others {
  below: Float64Array;
  second: number;
  scaled: Float64Array;
  total: number;
}

/** What the forms are made of: differences to the largest logit, and `exp` of them, scaled. */
function others(logits: Numbers): Others {
  const ordered = descending(logits);
  const below = ordered.subarray(1).map((z) => z - ordered[0]);
  const second = below[0];
  const scaled = below.map((d) => Math.exp(d - second));
  return { below, second, scaled, total: sum(scaled) };
}

/** Confidences by name in log-odds: rising functions of those in `CONFIDENCES`. */
export const LOG_ODDS: Record<string, (logits: Numbers) => number> = {
  max_prob(logits) {
    const { second, total } = others(logits);
    return -(second + Math.log(total));
  },
  prob_margin(logits) {
    const { second, total } = others(logits);
    return Math.log1p(Math.exp(second) * total) - second - Math.log(total + 1);
  },
  logit_margin: margin,
  entropy(logits) {
    const { below, second, scaled, total } = others(logits);
    const r = Math.exp(second) * total;
    const share = r > 0 ? Math.log1p(r) / r : 1; // of r in log1p(r)
    const entropy = total * share + sum(scaled.map((s, i) => s * -below[i])) / (1 + r);
    return -(second + Math.log(entropy));
  },
};

/**
 * The log-odds of a threshold that is given as users know it.
 *
 * Every answer reaches `-Infinity`, none `Infinity`. A threshold that is some answer's confidence
 * is rounded, as that is; the log-odds are lower by that much, at most 1e-6.
 */
export function toLogOdds(confidence: string, threshold: number): number {
  if (confidence === "logit_margin") return threshold > 0 ? threshold : -Infinity;
  let odds: number, room: number;
  if (confidence === "entropy") {
    if (!(-Infinity < threshold && threshold < 0)) return threshold >= 0 ? Infinity : -Infinity;
    odds = -Math.log(-threshold);
    room = -threshold;
  } else {
    if (!(0 < threshold && threshold < 1)) return threshold >= 1 ? Infinity : -Infinity;
    odds = -Math.log1p(-threshold);
    room = 1 - threshold;
    if (confidence !== "prob_margin") odds += Math.log(threshold);
  }
  return odds - Math.min(8 * EPSILON * (1 / room + Math.abs(odds)), 1e-6);
}

function dense(values: Float64Array, { kernel, bias, columns }: Layer): Float64Array {
  const found = Float64Array.from(bias);
  for (let i = 0; i < values.length; i++) {
    for (let j = 0; j < columns; j++) found[j] += values[i] * kernel[i * columns + j];
  }
  return found;
}

/** The log-odds of the probability of stopping that a learned policy computes for an answer. */
export function stoppingLogOdds(network: Network, probabilities: Float64Array): number {
  const relu = (values: Float64Array) => values.map((v) => Math.max(v, 0));
  const hidden = relu(dense(relu(dense(probabilities, network[0])), network[1]));
  const [stop, goOn] = dense(hidden, network[2]);
  return stop - goOn;
}

export interface RunOptions {
  confidence: string;
  /** One per stage, in log-odds (`plain`: as users know them); `null`: no stop by confidence. */
  thresholds: ArrayLike<number> | null;
  patience?: number | null;
  deadlineMs?: number;
  /** For `"learned"`: one network per stage, `null` for the network's last exit. */
  networks?: (Network | null)[] | null;
  agreement?: Agreement | null;
  /** Whether confidences are compared as users know them: so in files of version 2. */
  plain?: boolean;
}

/** Decides after each stage whether an image stops there. */
export class Run {
  label = -1;
  #logits: Float64Array = new Float64Array(1);
  #agreeing = 0;
  #votes = new Map<number, number>();
  readonly #how: RunOptions;

  constructor(how: RunOptions) {
    this.#how = how;
  }

  /** The confidence of a stage's answer, as users know it. */
  confidenceOf(stage: number, logits: Float64Array): number {
    const { networks, confidence } = this.#how;
    if (!networks) return CONFIDENCES[confidence](logits, softmax(logits));
    const network = networks[stage];
    return network ? softmax([stoppingLogOdds(network, softmax(logits)), 0])[0] : 1;
  }

  /** The confidence of a stage's answer in log-odds. */
  logOddsOf(stage: number, logits: Float64Array): number {
    const { networks, confidence } = this.#how;
    if (!networks) return LOG_ODDS[confidence](logits);
    const network = networks[stage];
    return network ? stoppingLogOdds(network, softmax(logits)) : Infinity;
  }

  /** The probabilities of the latest answer. */
  get probabilities(): Float64Array {
    return softmax(this.#logits);
  }

  /**
   * Why to stop after a stage, or `null`.
   *
   * @param logits Already divided by the exit's temperature.
   * @param elapsedMs Since the image was given.
   * @param nextMs The expected time of the next stage; `null`: this is the last.
   */
  stoppedBy(
    stage: number,
    logits: Float64Array,
    elapsedMs: number,
    nextMs: number | null,
    cancelled = false,
  ): StoppedBy | null {
    const before = this.label;
    this.label = argmax(logits);
    this.#agreeing = this.label === before ? this.#agreeing + 1 : 1;
    this.#votes.set(this.label, (this.#votes.get(this.label) ?? 0) + 1);
    this.#logits = logits;
    if (nextMs === null) return "end";
    const { thresholds, patience, agreement } = this.#how;
    if (thresholds && thresholds[stage] < Infinity) {
      const confidence = this.#how.plain
        ? this.confidenceOf(stage, logits)
        : this.logOddsOf(stage, logits);
      if (confidence >= thresholds[stage]) return "confidence";
    }
    if (patience != null && this.#agreeing >= patience) return "patience";
    if (agreement && this.#agrees(agreement, stage + 1)) return "patience";
    return this.interruptedBy(elapsedMs, nextMs, cancelled);
  }

  /** Why not to begin the next stage, or `null`: the part of `stoppedBy` that time can change. */
  interruptedBy(elapsedMs: number, nextMs: number, cancelled: boolean): StoppedBy | null {
    if (cancelled) return "cancelled";
    const deadline = this.#how.deadlineMs ?? Infinity;
    return elapsedMs >= deadline || elapsedMs + nextMs > deadline ? "deadline" : null;
  }

  #agrees({ members, share }: Agreement, answers: number): boolean {
    const needed = share * answers - 1e-9; // so that 2 of 3 are two thirds
    return answers >= members && Math.max(...this.#votes.values()) >= needed;
  }
}
