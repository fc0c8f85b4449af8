/** All thresholds of a file shifted by so much in log-odds, in the unit of users. */

const FROM_LOG_ODDS = {
  max_prob: (odds) => 1 / (1 + Math.exp(-odds)),
  prob_margin: (odds) => 1 - Math.exp(-odds),
  logit_margin: (odds) => odds,
  entropy: (odds) => -Math.exp(-odds),
};

/** The thresholds, or `null` if there are none to shift. */
export function shifted({ confidence, log_odds: odds, thresholds }, shift) {
  const from = FROM_LOG_ODDS[confidence];
  if (!from || !odds || odds.slice(0, -1).every((t) => t === Infinity)) return null;
  return odds.map((t, k) => (Number.isFinite(t) ? from(t + shift) : thresholds[k]));
}

/** What a shift says to people: the first exit's threshold. */
export function confidenceOf({ confidence, log_odds: odds }, shift) {
  const first = odds.find(Number.isFinite);
  const threshold = FROM_LOG_ODDS[confidence](first + shift);
  if (confidence !== "max_prob") return threshold.toPrecision(3);
  return `${(100 * threshold).toPrecision(3)} % at the first exit`;
}
