/** Accuracy against cost on test images, with the point that the slider is at. */

const [LEFT, RIGHT, TOP, BOTTOM] = [40, 350, 12, 186];
const SPACE = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const found = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

/** Draws the curve, and says in words where on it the thresholds are. */
export function drawCurve(svg, caption, { about, macs }, shift) {
  if (!about.curve) {
    svg.replaceChildren();
    caption.textContent = "There is no curve: this policy has no thresholds to shift.";
    return;
  }
  const points = about.curve;
  const full = macs.at(-1);
  const accuracies = points.map(([, , accuracy]) => accuracy);
  const low = Math.floor(20 * Math.min(...accuracies)) / 20;
  const high = Math.ceil(20 * Math.max(...accuracies)) / 20;
  const x = (cost) => LEFT + ((RIGHT - LEFT) * cost) / full;
  const y = (accuracy) => BOTTOM - ((BOTTOM - TOP) * (accuracy - low)) / (high - low || 1);
  const line = points.map(([, cost, accuracy]) => `${x(cost)},${y(accuracy)}`).join(" ");
  const nearest = (wanted) =>
    points.reduce((best, one) =>
      Math.abs(one[0] - wanted) < Math.abs(best[0] - wanted) ? one : best);
  const [now, own] = [nearest(shift), nearest(0)];
  const parts = [
    element("path", { class: "axis", d: `M${LEFT},${TOP}V${BOTTOM}H${RIGHT}` }),
    element("text", { x: LEFT - 4, y: y(high) + 4, "text-anchor": "end" }, percent(high)),
    element("text", { x: LEFT - 4, y: y(low) + 4, "text-anchor": "end" }, percent(low)),
    element("text", { x: LEFT, y: BOTTOM + 14 }, "0"),
    element("text", { x: RIGHT, y: BOTTOM + 14, "text-anchor": "end" }, "100 % of the MACs"),
    element("text", { x: LEFT + 6, y: TOP + 4 }, "accuracy"),
    element("polyline", { class: "line", points: line }),
    element("circle", { class: "calibrated", cx: x(own[1]), cy: y(own[2]), r: 8 }),
    element("circle", { class: "point", cx: x(now[1]), cy: y(now[2]), r: 5 }),
    element("text", { x: LEFT, y: BOTTOM + 30 }, "dot: now; ring: as calibrated"),
  ];
  svg.replaceChildren(...parts);
  caption.textContent =
    `On ${about.tested.toLocaleString("en")} test images, without a deadline: ` +
    `${(100 * now[2]).toFixed(1)} % right with ${Math.round((100 * now[1]) / full)} % of the MACs.`;
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}
