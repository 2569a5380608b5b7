// What a run should take by its size, and what runs took. Pure.

import { largest, number, plural, spelledMs, sum } from "./format.js";

/** The milliseconds that a curve of sizes and times promises: linear between what was measured, flat below; above, per unit. */
export function predicted({ sizes, ms }, size) {
  const right = sizes.findIndex((known) => known >= size);
  if (right === 0) return ms[0];
  if (right < 0) return (ms[ms.length - 1] * size) / sizes[sizes.length - 1];
  const share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1]);
  return ms[right - 1] + share * (ms[right] - ms[right - 1]);
}

/** How many times as long as predicted runs take: the median over runs, from the medians by size; null without runs. */
export function realShare(cost, runs) {
  const ratios = runs.map(({ size, count, p50_ms }) => [p50_ms / predicted(cost, size), count]).sort(([a], [b]) => a - b);
  const half = sum(ratios.map(([, count]) => count)) / 2;
  let seen = 0;
  for (const [ratio, count] of ratios) {
    seen += count;
    if (seen >= half) return ratio;
  }
  return null;
}

/** What the curve's sizes count: rows, or padded tokens; of what is no text, rows times what varies in them. */
export function sizeUnit({ cost, inputs }) {
  if (cost?.unit !== "tokens") return { short: "rows", long: "rows" };
  const isText = inputs.some(({ name, datatype }) => datatype === "BYTES" || /ids|tokens/i.test(name));
  return isText ? { short: "tokens", long: "padded tokens" } : { short: "size", long: "rows times the length of the longest" };
}

/** What the chart draws of a model: the curve as points, the runs as marks, and the largest time to show. */
export function costDrawing(model) {
  const { cost, runs } = model;
  const curve = cost ? cost.sizes.map((size, i) => [size, cost.ms[i]]) : [];
  if (cost && cost.sizes[0] > 1 && cost.unit === "rows") curve.unshift([1, cost.ms[0]]);
  const most = largest(runs.map(({ count }) => count));
  const unit = sizeUnit(model).long;
  const seen = runs.map(({ size, count, p10_ms, p50_ms, p90_ms }) => ({
    x: size,
    low: p10_ms,
    middle: p50_ms,
    high: p90_ms,
    share: count / most,
    title: `${unit}: ${number(size)}; ${plural(count, "batch")}, half within ${spelledMs(p50_ms)}, 10 to 90 % ${spelledMs(p10_ms)} to ${spelledMs(p90_ms)}`,
  }));
  const middles = largest(curve.map(([, ms]) => ms), runs.map(({ p50_ms }) => p50_ms));
  const top = Math.min(2 * middles, largest([middles], runs.map(({ p90_ms }) => p90_ms))); // a few slow runs do not flatten the rest
  return { curve, seen, top };
}
