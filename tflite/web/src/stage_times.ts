/** How long the stages of a network take here, learned from a clock that may be coarse. */

// ticks of the clock, that runs must last together to be learned from
const IN_A_ROW = 8; // the error is then an eighth at most
const SCATTERED = 64; // among other work each run may meet a tick by chance
const READS = 500_000; // of the clock, to see a tick
const MOST = 4096; // runs in one measurement; a clock that stands still would take for ever

/**
 * Expected time of each stage: follows what it lately took.
 *
 * The clock of a browser moves in steps of 5 microseconds to 16 ms. A stage is often shorter, and
 * then seems to take no time, or a whole step. So times are added up, over as many runs as it takes
 * until they are many steps of the clock.
 */
export class StageTimes {
  /** In milliseconds, one per stage. */
  readonly expectedMs: number[];
  readonly #fastestMs: number[];
  readonly #sums: [ms: number, runs: number][]; // not yet learned from
  #tickMs = Infinity; // the shortest time the clock has shown

  constructor(stages: number, readonly now: () => number = () => performance.now()) {
    this.expectedMs = Array<number>(stages).fill(0);
    this.#fastestMs = Array<number>(stages).fill(Infinity);
    this.#sums = Array.from({ length: stages }, () => [0, 0]);
    let [before, seen] = [now(), 0];
    for (let i = 0; i < READS && seen < 3; i++) {
      const read = now();
      if (read > before) seen++;
      this.#see(read - before);
      before = read;
    }
  }

  /**
   * Measures every stage, before anything is known.
   *
   * @param run Runs a stage; called from the first to the last.
   * @param times How often at least.
   * @param turn Called between measurements.
   */
  async measure(run: (stage: number) => void, times: number, turn: () => Promise<void>) {
    const stages = this.expectedMs.length;
    for (let round = 0; round < times; round++) {
      for (let i = 0; i < stages; i++) {
        // the fastest, which nothing disturbed
        this.#fastestMs[i] = Math.min(this.#fastestMs[i], this.#timed(run, i, 1));
        await turn();
      }
    }
    for (let i = 0; i < stages; i++) {
      let [runs, took] = [1, this.#fastestMs[i]];
      while (took < IN_A_ROW * this.#tickMs && runs < MOST) {
        runs *= 2;
        took = this.#timed(run, i, runs);
        await turn();
        // the least of three: what else the machine did meanwhile is not the stage's time
        for (let again = 0; again < 2 && took >= IN_A_ROW * this.#tickMs; again++) {
          took = Math.min(took, this.#timed(run, i, runs));
        }
      }
      this.#fastestMs[i] = took / runs;
      this.expectedMs[i] = this.#fastestMs[i];
    }
  }

  #timed(run: (stage: number) => void, stage: number, runs: number): number {
    const start = this.now();
    for (let i = 0; i < runs; i++) run(stage);
    const took = this.now() - start;
    this.#see(took);
    return took;
  }

  #see(tookMs: number): void {
    if (tookMs > 0) this.#tickMs = Math.min(this.#tickMs, tookMs);
  }

  /** Follows the time a stage takes: up quickly, down slowly, unmoved by one hiccup. */
  learn(stage: number, tookMs: number): void {
    this.#see(tookMs);
    const [total, runs] = [this.#sums[stage][0] + tookMs, this.#sums[stage][1] + 1];
    const expected = this.expectedMs[stage];
    if (total < SCATTERED * this.#tickMs && expected) {
      this.#sums[stage] = [total, runs];
      return;
    }
    this.#sums[stage] = [0, 0];
    const mean = total / runs;
    this.#fastestMs[stage] = Math.min(this.#fastestMs[stage], mean);
    const change = mean - expected;
    const most = expected ? 0.25 * expected : change; // from nothing only by what was seen
    this.expectedMs[stage] += change > 0 ? Math.min(0.5 * change, most) : 0.05 * change;
  }

  /** Expects a little less of a stage that was not begun for lack of time. */
  forgetSlowly(stage: number): void {
    const expected = 0.99 * this.expectedMs[stage];
    this.expectedMs[stage] = Math.max(expected, this.#fastestMs[stage]);
  }
}
