/** The rule: what stops an image, and where, as tflite/testdata says. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { stoppingNetworks } from "../dist/info.js";
import { Run, toLogOdds } from "../dist/rule.js";
import { json, near } from "./testdata.mjs";

const VECTORS = ["confidence", "saturated", "learned", "patience", "agreement", "deadline"];

/** Runs a case; returns where and why the image stops, and what was seen until then. */
function stopped(one) {
  const networks = one.stopping
    ? stoppingNetworks({
        stopping: one.stopping.map((layers) =>
          layers.map((layer) => ({ ...layer, shape: layer.shape.map(BigInt) })),
        ),
      })
    : null;
  const run = new Run({
    confidence: one.confidence,
    thresholds: one.log_odds.map(Number),
    patience: one.patience,
    deadlineMs: one.deadline_ms ?? Infinity,
    networks,
    agreement: one.agreement,
  });
  const [confidences, logOdds] = [[], []];
  let elapsed = 0;
  for (let k = 0; k < one.logits.length; k++) {
    const logits = Float64Array.from(one.logits[k], (z) => z / one.temperatures[k]);
    elapsed += one.stage_ms[k];
    confidences.push(run.confidenceOf(k, logits));
    logOdds.push(run.logOddsOf(k, logits));
    const next = k + 1 < one.logits.length ? one.stage_ms[k + 1] : null;
    const cancelled = one.cancelled_during !== null && one.cancelled_during <= k;
    const by = run.stoppedBy(k, logits, elapsed, next, cancelled);
    if (by) return { run, exit: k, by, confidences, logOdds };
  }
  throw new Error("it never stopped");
}

for (const name of VECTORS) {
  test(`every case of ${name}.json stops where and why it says`, () => {
    const { cases } = json(`${name}.json`);
    assert.ok(cases.length > 10);
    for (const [number, one] of cases.entries()) {
      const { expected } = one;
      const { run, exit, by, confidences, logOdds } = stopped(one);
      const found = { exit, stopped_by: by, label: run.label };
      const { stopped_by, label } = expected;
      assert.deepEqual(found, { exit: expected.exit, stopped_by, label }, `case ${number}`);
      expected.probabilities.forEach((p, i) => near(run.probabilities[i], p, 1e-9));
      expected.confidences.forEach((c, k) => near(confidences[k], Number(c), 1e-9, "confidence"));
      expected.log_odds.forEach((c, k) => near(logOdds[k], Number(c), 1e-9, "log-odds"));
    }
  });
}

test("thresholds that users give become those that files hold", () => {
  for (const name of VECTORS) {
    for (const one of json(`${name}.json`).cases) {
      one.thresholds.forEach((given, k) => {
        const odds = toLogOdds(one.confidence, Number(given));
        const exact = Number(one.log_odds[k]);
        if (Number.isFinite(exact) && Number(given) < 1 - 1e-6) {
          assert.ok(odds <= exact + 1e-9 && odds >= exact - 2e-6 - 1e-6 * Math.abs(exact));
        }
      });
    }
  }
  assert.equal(toLogOdds("max_prob", 1), Infinity);
  assert.equal(toLogOdds("entropy", 0), Infinity);
  assert.equal(toLogOdds("entropy", -Infinity), -Infinity);
  assert.equal(toLogOdds("prob_margin", -0.1), -Infinity);
  assert.equal(toLogOdds("logit_margin", 3), 3);
});
