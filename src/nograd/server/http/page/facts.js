// The picked model in words and counts: reasons, times, cache, errors, what it is.

import { byId, element, refill } from "./dom.js";
import { bytes, milliseconds, number, percent, plural, shapeText, span, spelledMs, sum } from "./format.js";

const quiet = (text) => element("p", { className: "quiet" }, text);
const bar = (share) => {
  const filled = element("span");
  filled.style.width = `${100 * share}%`;
  return element("div", { className: "track" }, filled);
};

/** What the batcher's release reasons mean. */
const MEANINGS = {
  "device free": "nothing else waits",
  full: "no room for more, or no gain",
  lengths: "others are of other lengths",
  deadline: "one more, and the first is late",
  waited: "the oldest waited its window",
  draining: "the server stops",
};

export function showReasons(model) {
  const reasons = Object.entries(model.release_reasons).sort(([, a], [, b]) => b - a);
  const all = sum(reasons.map(([, count]) => count));
  refill(byId("release-reasons"), reasons, () => {
    if (!all) return [quiet("no batch has run in the last minute")];
    return reasons.map(([reason, count]) => {
      const share = element("span", { className: "quiet" }, `${number(count)} (${percent(count / all)})`);
      const name = element("span", {}, reason, element("span", { className: "quiet" }, MEANINGS[reason] ? `: ${MEANINGS[reason]}` : ""));
      return element("div", {}, element("p", {}, name, share), bar(count / all));
    });
  });
}

export function showTimes(model) {
  const rows = [["in the queue", model.wait_ms], ["on the device", model.run_ms], ["whole request", model.latency]];
  const heads = ["", "p50", "p99"].map((name) => (name ? element("th", { scope: "col" }, name) : element("td")));
  refill(byId("times"), rows, () => {
    const body = rows.map(([name, times]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, spelledMs(times.p50_ms)), element("td", {}, spelledMs(times.p99_ms))),
    );
    return [element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body)];
  });
}

// ---- The cache

/** Answers that are kept: rows that were not run, the device time that saved, and the memory it takes. */
export function showCache(cache) {
  refill(byId("cache"), cache, () => {
    if (!cache) return [quiet("No answers are kept for this model: every row is run.")];
    const share = cache.rows ? cache.hits / cache.rows : 0;
    const head = element("p", {}, element("span", {}, "rows known already"), element("span", { className: "quiet", id: "total-cache-hits" }, `${number(cache.hits)} of ${number(cache.rows)} (${percent(share)})`));
    const facts = [
      ["device time saved", "total-cache-saved", milliseconds(cache.saved_ms).join(" ")],
      ["kept answers", "total-cache-entries", number(cache.entries)],
      ["memory", "total-cache-bytes", `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}`],
      ...(cache.redis ? [["Redis", "total-cache-redis", redisText(cache.redis)]] : []),
    ];
    return [element("div", { className: "reasons" }, element("div", {}, head, bar(share))), counts(facts)];
  });
  const state = cache ? (cache.is_on ? "on" : "off") : "none";
  byId("cache-state").textContent = { on: "on", off: "off: it costs more than it saves", none: "none" }[state];
  byId("cache-state").dataset.state = state;
}

const redisText = ({ hits, failures, last_error }) =>
  failures ? `${plural(failures, "failure")}${last_error ? `: ${last_error}` : ""}` : plural(hits, "hit");

const counts = (facts) =>
  element("dl", { className: "facts counts" }, ...facts.flatMap(([label, id, value]) => [element("dt", {}, label), element("dd", { id }, value)]));

const TOTALS = [["requests", "answered requests"], ["rows", "rows run"], ["batches", "batches"], ["errors", "errors"], ["refused", "refused: no room, or too late"]];

export function showTotals(model) {
  const facts = TOTALS.map(([name, label]) => [label, `total-${name}`, number(model.totals[name])]);
  refill(byId("totals"), facts, () => [counts(facts)]);
}

// ---- Errors

/** The last errors, the newest first; each with how often it came and how long ago. */
export function showErrors(model) {
  const errors = model.last_errors;
  const host = byId("last-errors");
  refill(host, errors.map(({ status, error }) => [status, error]), () => {
    if (!errors.length) return [quiet("none since the start")];
    const items = errors.map(({ status, error }) =>
      element(
        "li",
        {},
        element("p", {}, element("b", { className: status >= 500 ? "fault" : "" }, String(status)), " ", element("span", { className: "age quiet" })),
        element("p", { className: "sentence", title: error }, error),
      ),
    );
    return [element("ul", { className: "errors-list" }, ...items)];
  });
  host.querySelectorAll(".age").forEach((age, i) => {
    const { age_s, count } = errors[i];
    const when = new Date(Date.now() - age_s * 1000).toLocaleTimeString();
    age.textContent = `${count > 1 ? `${number(count)} times, last ` : ""}${span(age_s)} ago, at ${when}`;
  });
}

// ---- What it is

const BATCHING = { pad: "padded to the longest row", equal_lengths: "rows of equal length only", alone: "every request alone" };

const fact = (name, ...value) => [element("dt", {}, name), element("dd", {}, ...value)];
const ports = (specs) => specs.map((spec) => element("code", {}, `${spec.name}  ${spec.datatype} ${shapeText(spec.shape)}`));

const share = (value) => (value ? value.toExponential(1) : "0");

/** How far the rows of a batch influence each other, as it was measured for this backend. */
function independenceText(found) {
  if (!found) return ["independence not measured"];
  const { verdict, bound, tolerance, size_effect, companions, num_batches } = found;
  const near = companions ? ` next to ${companions}` : "";
  const bounds = `a row moves by at most ${share(bound)} of the output's largest value${near}; ${share(tolerance)} is allowed`;
  const why = `${bounds}. The batch size moves it by ${share(size_effect)} (rounding). Measured over ${plural(num_batches, "batch")}.`;
  return [verdict, element("span", { className: "why" }, why)];
}

export function showAbout(model) {
  const { limits } = model;
  const { batching, batching_reason, size_limits, independence } = model;
  const threads = model.code?.threads;
  const key = [model.backend, model.device, batching, batching_reason, size_limits, independence, limits, threads, model.inputs, model.outputs];
  refill(byId("about"), key, () => [
    ...fact("backend", `${model.backend} on ${model.device}`),
    ...fact("batching", BATCHING[model.batching] ?? model.batching, element("span", { className: "why" }, model.batching_reason)),
    ...fact("rows", ...independenceText(model.independence)),
    ...fact("batch limit", plural(limits.max_batch_size, "row")),
    ...fact("longest wait", limits.max_wait_ms ? spelledMs(limits.max_wait_ms) : "none: runs when the device is free"),
    ...fact("queue limit", plural(limits.max_queue_rows, "row")),
    ...(threads ? fact("pre- and postprocessing", `in ${plural(threads, "thread")}`) : []),
    ...fact("deadline", limits.timeout_s === null ? "none" : `${number(limits.timeout_s)} s`),
    ...fact("inputs", ...ports(model.inputs)),
    ...(model.size_limits ? fact("sizes", model.size_limits) : []),
    ...fact("outputs", ...ports(model.outputs)),
  ]);
}
