// The picked model's figures and charts.

import { byId, setText } from "./dom.js";
import { curveChart, histogram, legend, pointer, timeChart } from "./charts.js";
import { costDrawing, realShare, sizeUnit } from "./cost.js";
import { largest, last, milliseconds, number, percent, plural, spelledMs, sum } from "./format.js";
import { linearScale, logScale } from "./scales.js";

export const hasTraffic = ({ totals }) => totals.requests + totals.errors > 0;

export function showFigures(model) {
  const { series, latency, limits } = model;
  setText("requests-per-second", number(last(series.requests)));
  setText("requests-note", `${number(sum(series.requests) / series.seconds)}/s over ${series.seconds} s`);
  for (const name of ["p50", "p95", "p99"]) {
    const [figure, unit] = milliseconds(latency[`${name}_ms`]);
    setText(name, figure);
    setText(`${name}-unit`, unit);
  }
  setText("p50-note", `of ${plural(latency.count, "answer")}`);
  setText("p95-note", `over ${series.seconds} s`);
  setText("p99-note", latency.max_ms === null ? "" : `slowest ${spelledMs(latency.max_ms)}`);
  setText("queue-rows", number(model.queue_rows));
  setText("queue-note", `${number(model.running_rows)} running`);
  setText("batch-rows", number(meanBatch(model.batch_rows)));
  setText("batch-note", `of ${number(limits.max_batch_size)} at most`);
  setText("padding-share", percent(model.padding_share).split(" ")[0]);
  setText("padding-note", "of the work");
  showCacheFigure(model.cache);
}

function showCacheFigure(cache) {
  const [share, unit] = percent(cache?.rows ? cache.hits / cache.rows : null).split(" ");
  setText("cache-share", share);
  setText("cache-unit", unit ?? "%");
  const saved = cache ? `saved ${spelledMs(cache.saved_ms)}` : "";
  setText("cache-note", !cache ? "no answers are kept" : cache.is_on ? (cache.hits ? saved : "of the rows") : "off: costs more");
}

function meanBatch(counts) {
  const batches = sum(counts.map(([, count]) => count));
  return batches ? sum(counts.map(([rows, count]) => rows * count)) / batches : null;
}

export function showCharts(model) {
  const { series } = model;
  const quiet = !(sum(series.requests) || sum(series.errors) || model.latency.count);
  const empty = !quiet ? "" : hasTraffic(model) ? "no requests in the last minute" : "no traffic yet";
  const shared = { seconds: series.seconds, empty };
  const at = (values) => (pointer.second === null ? last(values) : (values[pointer.second] ?? null));
  showThroughput(series, shared, at);
  showLatency(series, shared, at);
  showQueue(series, shared, at);
  histogram("batch-histogram", model.batch_rows, empty);
  setText("batch-limit", `${plural(sum(model.batch_rows.map(([, count]) => count)), "batch")} in ${series.seconds} s`);
  showCost(model);
}

function showThroughput(series, shared, at) {
  const arrived = series.requests.map((answered, i) => answered + series.errors[i]); // the server counts a request as one or the other
  timeChart("throughput-chart", {
    ...shared,
    scale: linearScale(largest(arrived)),
    unit: "req/s",
    label: `Requests per second over the last minute, ${number(last(series.requests))} answered in the last second, ${number(sum(series.errors))} errors in all`,
    layers: [["bars", arrived, "requests-bar"], ["bars", series.errors, "errors"]],
  });
  legend("throughput-legend", [
    ["requests-bar", "answered", number(at(series.requests)), "block"],
    ["errors", "errors", number(at(series.errors)), "block"],
    ["none", "rows", number(at(series.rows))],
  ]);
}

function showLatency(series, shared, at) {
  timeChart("latency-chart", {
    ...shared,
    scale: logScale([...series.p50_ms, ...series.p95_ms, ...series.p99_ms]),
    unit: "ms, log",
    label: `Latency per second over the last minute, logarithmic; p50 ${spelledMs(last(series.p50_ms))}, p99 ${spelledMs(last(series.p99_ms))} in the last second`,
    layers: [
      ["area", series.p99_ms, "p50", series.p50_ms],
      ["line", series.p99_ms, "p99"],
      ["line", series.p95_ms, "p95"],
      ["line", series.p50_ms, "p50"],
    ],
  });
  legend("latency-legend", ["p50", "p95", "p99"].map((name) => [name, name, spelledMs(at(series[`${name}_ms`]))]));
}

function showQueue(series, shared, at) {
  timeChart("queue-chart", {
    ...shared,
    scale: linearScale(largest(series.queue_rows, series.batch_rows)),
    unit: "rows",
    label: `Rows in the queue over the last minute, ${number(last(series.queue_rows))} in the last second`,
    layers: [["area", series.queue_rows, "queue"], ["line", series.queue_rows, "queue"], ["line", series.batch_rows, "batch"]],
  });
  legend("queue-legend", [
    ["queue", "waiting", number(at(series.queue_rows))],
    ["batch", "in a batch", number(at(series.batch_rows))],
  ]);
}

/** The curve that the batcher plans with, and what the batches of the last minute took. */
function showCost(model) {
  const { cost, runs } = model;
  const { curve, seen, top } = costDrawing(model);
  const share = cost && runs.length ? realShare(cost, runs) : null;
  const unit = sizeUnit(model);
  const said = share === null ? "" : `real is ${number(Number(share.toPrecision(2)))} × predicted`;
  curveChart("cost-chart", {
    curve,
    seen,
    top,
    xUnit: unit.short,
    yUnit: "ms",
    label: `Milliseconds of a batch by its ${unit.long}, predicted and real. ${said}`,
    empty: cost ? "" : "not measured yet",
  });
  legend("cost-legend", [["predicted", "predicted"], ["seen-key", "real, 10–90 %", undefined, "round"]]);
  setText("cost-note", cost ? `${said || "predicted"}${said ? "," : ""} as ${cost.source}` : "");
}
