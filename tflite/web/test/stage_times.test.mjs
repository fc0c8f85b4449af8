/** How long stages take, on clocks that move in steps and machines that are busy. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { StageTimes } from "../dist/stage_times.js";

/** A clock that moves in steps, and stages that take what is said; some runs hiccup. */
function simulated(tickMs, stageMs, hiccup = 0, when = (i) => i % 7 === 0) {
  let [time, runs] = [0, 0];
  const now = () => {
    time += 1e-4;
    return Math.floor(time / tickMs) * tickMs;
  };
  const run = (stage) => {
    runs++;
    time += stageMs[stage] + (when(runs) ? hiccup : 0);
  };
  return { now, run };
}

const turn = () => Promise.resolve();

for (const tick of [0.005, 0.1, 1, 16]) {
  test(`stages are measured on a clock of ${tick} ms`, async () => {
    const stageMs = [0.03, 0.4, 5];
    const { now, run } = simulated(tick, stageMs);
    const times = new StageTimes(3, now);
    await times.measure(run, 5, turn);
    const near = () =>
      times.expectedMs.forEach((ms, i) =>
        assert.ok(ms > 0.7 * stageMs[i] && ms < 1.3 * stageMs[i], `${i}: ${ms}`));
    near();
    for (let i = 0; i < 2000; i++) {
      stageMs.forEach((_, stage) => {
        const before = now();
        run(stage);
        times.learn(stage, now() - before);
      });
    }
    near();
  });
}

test("a hiccup while a file is opened is not learned", async () => {
  const { now, run } = simulated(0.1, [0.03, 0.03], 20);
  const times = new StageTimes(2, now);
  await times.measure(run, 5, turn);
  assert.ok(times.expectedMs.every((ms) => ms < 7), String(times.expectedMs));
});

test("one hiccup while a file is opened is not learned, whenever it comes", async () => {
  const stageMs = [0.03, 0.4];
  for (let at = 0; at < 1000; at += 3) {
    const { now, run } = simulated(1, stageMs, 20, (i) => i === at);
    const times = new StageTimes(2, now);
    await times.measure(run, 5, turn);
    times.expectedMs.forEach((ms, i) =>
      assert.ok(ms > 0.7 * stageMs[i] && ms < 1.3 * stageMs[i], `${at}, ${i}: ${ms}`));
  }
});

test("a slow spell is followed quickly, and forgotten slowly", async () => {
  const { now, run } = simulated(0.001, [1]);
  const times = new StageTimes(1, now);
  await times.measure(run, 5, turn);
  times.learn(0, 100);
  assert.ok(times.expectedMs[0] < 1.3); // one hiccup
  for (let i = 0; i < 10; i++) times.learn(0, 2);
  assert.ok(times.expectedMs[0] > 1.9);
  for (let i = 0; i < 500; i++) times.forgetSlowly(0);
  assert.ok(Math.abs(times.expectedMs[0] - 1) < 0.05); // down to the fastest there was
});
