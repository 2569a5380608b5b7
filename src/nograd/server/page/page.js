// The live page of nograd: asks the server for live.json once a second, draws it, and tries the model.
//
// Read from the bottom: `poll` fetches, `show` draws one answer of the server, and the sections in between
// each own one part of the page. Text from the server enters the page as text nodes only, never as markup.

const POLL_MS = 1000;
const POLL_TIMEOUT_MS = 5000;
const NONE = "–";
const MINUS = "−";
const MAX_ANSWER_ROWS = 12; // more rows are counted, not shown
const MAX_ANSWER_VALUES = 8; // of one row
const MIN_EMBEDDING_WIDTH = 8; // a [rows, d] float output at least this wide is compared row with row

const page = {
  live: null, // the last live.json
  modelKey: null, // the model on screen
  hoverSecond: null, // index into the series under the pointer, or null
  reachedAt: null, // when the server last answered
};

// ---- Elements ----------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

/** An HTML element with properties and children; strings become text nodes. */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** An SVG element with attributes and children. */
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set an element's text, touching the page only when it changed (screen readers, selections). */
function setText(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

/** Fill `host` anew when `key` changed, so that text a user is selecting stays put. */
function refill(host, key, build) {
  const text = JSON.stringify(key);
  if (host.dataset.key === text) return;
  host.dataset.key = text;
  host.replaceChildren(...build());
}

// ---- Numbers as text ---------------------------------------------------------------------------------

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three significant digits, grouped thousands; a dash for what was not measured. */
function number(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 100) return grouped.format(value);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.1) return value.toFixed(2);
  return String(Number(value.toPrecision(2)));
}

/** [figure, unit] of a time given in milliseconds. */
function milliseconds(ms) {
  return ms >= 10_000 ? [number(ms / 1000), "s"] : [number(ms), "ms"];
}

const spelledMs = (ms) => (ms === null ? NONE : milliseconds(ms).join(" "));
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** A span of seconds in its two largest units: "3 min 20 s". */
function span(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor(whole / 3600) % 24} h`;
}

const last = (values) => values[values.length - 1] ?? null;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const largest = (...series) => series.flat().reduce((most, value) => Math.max(most, value ?? 0), 0);
const shapeText = (shape) => `[${shape.join(", ")}]`;

// ---- Axes --------------------------------------------------------------------------------------------

/** The k-th of ... 0.5, 1, 2, 5, 10, 20 ...; k = 0 is 1. */
const round125 = (k) => Number(`${[1, 2, 5][((k % 3) + 3) % 3]}e${Math.floor(k / 3)}`);

/** The largest k whose round number is at most `value`. */
function index125(value) {
  let k = 3 * Math.floor(Math.log10(value)) - 1;
  while (round125(k + 1) <= value) k += 1;
  return k;
}

/** From 0 to a round number above `most`, in whole steps; `at` maps a value to 0..1. */
function linearScale(most) {
  const least = Math.max(most, 4) / 5; // at most five steps
  const k = index125(least);
  const step = round125(k) < least ? round125(k + 1) : round125(k);
  const top = Math.ceil(Math.max(most, 4) / step) * step;
  const ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step);
  return { ticks, at: (value) => value / top };
}

/** Logarithmic, from a round number below `values` to one above; `at` maps a value to 0..1. */
function logScale(values) {
  const seen = values.filter((value) => value !== null && value > 0);
  const low = index125(seen.length ? Math.min(...seen) : 1);
  const high = Math.max(index125(seen.length ? Math.max(...seen) : 99) + 1, low + 3);
  const all = Array.from({ length: high - low + 1 }, (_, i) => round125(low + i));
  const ticks = all.length > 7 ? all.filter((tick) => Number.isInteger(Math.log10(tick))) : all;
  const height = Math.log(all[all.length - 1] / all[0]);
  return { ticks, at: (value) => Math.max(0, Math.log(value / all[0]) / height) };
}

// ---- Charts ------------------------------------------------------------------------------------------

/** The plotting area of `host`, in pixels, with its SVG, gridlines and labelled y axis. */
function frame(host, scale, unit, label) {
  const width = Math.max(host.clientWidth, 120);
  const height = Math.max(host.clientHeight, 80);
  const area = { left: 44, right: width - 2, top: 20, bottom: height - 22 };
  area.y = (value) => area.bottom - scale.at(value) * (area.bottom - area.top);
  area.root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  area.root.append(text(0, 9, "start", unit));
  for (const tick of scale.ticks) {
    const y = Math.round(area.y(tick)) + 0.5;
    area.root.append(
      svg("line", { x1: area.left, x2: area.right, y1: y, y2: y, class: tick === scale.ticks[0] ? "base-line" : "grid-line" }),
      text(area.left - 8, y + 4, "end", compact.format(tick)),
    );
  }
  return area;
}

function text(x, y, anchor, content, className = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: className }, content);
}

const emptyText = (area, content) => text((area.left + area.right) / 2, (area.top + area.bottom) / 2 + 4, "middle", content, "empty");

/** Runs of neighbouring points that are not null: a null leaves a gap. */
function runs(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i > 0 && values[i - 1] !== null && found.length) found[found.length - 1].push(i);
    else found.push([i]);
  });
  return found;
}

const draw = {
  /** A column per second, for counts. */
  bars(area, values, className) {
    const width = Math.max(area.slot - 1.5, 1);
    const columns = values.map((value, i) => (value ? `M${area.x(i) - width / 2} ${area.bottom}V${area.y(value)}h${width}V${area.bottom}z` : ""));
    return svg("path", { d: columns.join(""), class: `bar ${className}` });
  },
  /** A line; a point between two gaps is drawn as a dot. */
  line(area, values, className) {
    const path = runs(values).map((run) => "M" + run.map((i) => `${area.x(i)} ${area.y(values[i])}`).join("L") + (run.length === 1 ? "h0.01" : ""));
    return svg("path", { d: path.join(""), class: `line ${className}` });
  },
  /** The area between a line and a lower one; without a lower one, and the base. */
  area(area, values, className, lower = null) {
    const floor = (i) => (lower === null ? area.bottom : area.y(lower[i]));
    const path = runs(values).map((run) => {
      const above = run.map((i) => `${area.x(i)} ${area.y(values[i])}`);
      const below = run.map((i) => `${area.x(i)} ${floor(i)}`).reverse();
      return `M${above.concat(below).join("L")}z`;
    });
    return svg("path", { d: path.join(""), class: `area ${className}` });
  },
};

/** A chart over the last minute. `layers` is a list of [kind, values, class, ...]; `empty` replaces them. */
function timeChart(id, { scale, unit, label, layers, seconds, empty }) {
  const host = byId(id);
  const area = frame(host, scale, unit, label);
  area.slot = (area.right - area.left) / seconds;
  area.x = (i) => Math.round((area.left + (i + 0.5) * area.slot) * 100) / 100;
  for (const ago of [1, 0.75, 0.5, 0.25, 0]) {
    const x = area.right - ago * (area.right - area.left);
    const anchor = ago === 1 ? "start" : ago === 0 ? "end" : "middle";
    area.root.append(text(x, area.bottom + 17, anchor, ago ? `${MINUS}${Math.round(ago * seconds)} s` : "now"));
  }
  if (empty) area.root.append(emptyText(area, empty));
  else for (const [kind, ...rest] of layers) area.root.append(draw[kind](area, ...rest));
  if (page.hoverSecond !== null && !empty) {
    const x = area.x(page.hoverSecond);
    const ago = `${seconds - page.hoverSecond} s ago`;
    area.root.append(svg("line", { x1: x, x2: x, y1: area.top, y2: area.bottom, class: "cross" }), text(x, area.top - 7, "middle", ago));
  }
  host.replaceChildren(area.root);
}

/** Columns of [rows in a batch, batches]; above 64 rows neighbours share a column. */
function histogram(id, counts, empty) {
  const perColumn = Math.max(1, Math.ceil(largest(counts.map(([rows]) => rows)) / 64));
  const columns = new Map();
  for (const [rows, batches] of counts) {
    const column = Math.ceil(rows / perColumn) - 1;
    columns.set(column, (columns.get(column) ?? 0) + batches);
  }
  const width = Math.max(8, ...[...columns.keys()].map((column) => column + 1));
  const label = `Batches of the last minute by size. ${counts.map(([rows, batches]) => `${plural(rows, "row")}: ${batches}`).join(", ")}`;
  const area = frame(byId(id), linearScale(largest([...columns.values()])), "batches", label);
  area.slot = (area.right - area.left) / width;
  area.x = (i) => area.left + (i + 0.5) * area.slot;
  const name = (column) => (perColumn === 1 ? `${column + 1}` : `${column * perColumn + 1}–${(column + 1) * perColumn}`);
  for (const [column, batches] of columns) {
    const bar = draw.bars(area, Array.from({ length: column + 1 }, (_, i) => (i === column ? batches : 0)), "requests-bar");
    bar.append(svg("title", {}, `${name(column)} rows: ${plural(batches, "batch").replace("batchs", "batches")}`));
    area.root.append(bar);
  }
  for (const column of histogramTicks(width, (area.right - area.left) / 40)) {
    area.root.append(text(area.x(column), area.bottom + 17, "middle", number((column + 1) * perColumn)));
  }
  area.root.append(text(0, area.bottom + 17, "start", "rows"));
  if (empty) area.root.append(emptyText(area, empty));
  byId(id).replaceChildren(area.root);
}

/** Columns to label, at most `room` of them: the first, then round numbers. */
function histogramTicks(width, room) {
  let k = 0;
  while (width / round125(k) > room) k += 1;
  const columns = Array.from({ length: width }, (_, column) => column);
  return columns.filter((column) => (column + 1) % round125(k) === 0 || (column === 0 && round125(k) > 2));
}

/** Legend entries [class, name, value] with a colour key each. */
function legend(id, entries) {
  const items = entries.map(([className, name, value, block]) =>
    element("li", {}, element("span", { className: `key ${className}${block ? " block" : ""}` }), `${name} `, element("b", {}, value)),
  );
  byId(id).replaceChildren(...items);
}

// ---- The model on screen: figures and charts ---------------------------------------------------------

function showFigures(model) {
  const { series, latency, limits } = model;
  const mean = sum(series.requests) / series.seconds;
  setText("requests-per-second", number(last(series.requests)));
  setText("requests-note", `${number(mean)}/s over ${series.seconds} s`);
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
  setText("padding-share", model.padding_share === null ? NONE : number(Math.round(model.padding_share * 1000) / 10));
  setText("padding-note", "of what is computed");
}

function meanBatch(counts) {
  const batches = sum(counts.map(([, count]) => count));
  return batches ? sum(counts.map(([rows, count]) => rows * count)) / batches : null;
}

function showCharts(model) {
  const { series } = model;
  const at = (values) => (page.hoverSecond === null ? last(values) : values[page.hoverSecond] ?? null);
  const quiet = !(sum(series.requests) || sum(series.errors) || model.latency.count);
  const empty = !quiet ? "" : hasTraffic(model) ? "no requests in the last minute" : "no traffic yet";
  const shared = { seconds: series.seconds, empty };
  const arrived = series.requests.map((answered, i) => answered + series.errors[i]); // the server counts a request as one or the other

  timeChart("throughput-chart", {
    ...shared,
    scale: linearScale(largest(arrived)),
    unit: "req/s",
    label: `Requests per second over the last minute, ${number(last(series.requests))} answered in the last second, ${number(sum(series.errors))} errors in all`,
    layers: [["bars", arrived, "requests-bar"], ["bars", series.errors, "errors"]],
  });
  legend("throughput-legend", [
    ["requests-bar", "answered", number(at(series.requests)), true],
    ["errors", "errors", number(at(series.errors)), true],
    ["none", "rows", number(at(series.rows))],
  ]);

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

  timeChart("queue-chart", {
    ...shared,
    scale: linearScale(largest(series.queue_rows, series.batch_rows)),
    unit: "rows",
    label: `Rows in the queue over the last minute, ${number(last(series.queue_rows))} in the last second`,
    layers: [["area", series.queue_rows, "queue"], ["line", series.queue_rows, "queue"], ["line", series.batch_rows, "batch"]],
  });
  legend("queue-legend", [
    ["queue", "queued", number(at(series.queue_rows))],
    ["batch", "rows per batch", number(at(series.batch_rows))],
  ]);

  histogram("batch-histogram", model.batch_rows, empty);
  setText("batch-limit", `${number(sum(model.batch_rows.map(([, count]) => count)))} batches in 60 s`);
}

function showReasons(model) {
  const reasons = Object.entries(model.release_reasons).sort(([, a], [, b]) => b - a);
  const all = sum(reasons.map(([, count]) => count));
  refill(byId("release-reasons"), reasons, () => {
    if (!all) return [element("p", { className: "quiet" }, "no batch has run in the last minute")];
    return reasons.map(([reason, count]) => {
      const bar = element("span");
      bar.style.width = `${(100 * count) / all}%`;
      const share = `${number(count)} (${number(Math.round((100 * count) / all))} %)`;
      return element("div", {}, element("p", {}, element("span", {}, reason), element("span", { className: "quiet" }, share)), element("div", { className: "track" }, bar));
    });
  });
}

function showTimes(model) {
  const rows = [["in the queue", model.wait_ms], ["on the device", model.run_ms], ["whole request", model.latency]];
  const heads = ["", "p50", "p99"].map((name) => (name ? element("th", { scope: "col" }, name) : element("td")));
  const body = rows.map(([name, times]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, spelledMs(times.p50_ms)), element("td", {}, spelledMs(times.p99_ms))),
  );
  byId("times").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
}

// ---- The model on screen: what it is -----------------------------------------------------------------

const BATCHING = { pad: "padded to the longest row", equal_lengths: "rows of equal length only", alone: "every request alone" };

const fact = (name, ...value) => [element("dt", {}, name), element("dd", {}, ...value)];
const ports = (specs) => specs.map((spec) => element("code", {}, `${spec.name}  ${spec.datatype} ${shapeText(spec.shape)}`));

function showAbout(model) {
  const { limits } = model;
  const key = [model.backend, model.device, model.batching, model.batching_reason, limits, model.inputs, model.outputs];
  refill(byId("about"), key, () => [
    ...fact("backend", `${model.backend} on ${model.device}`),
    ...fact("batching", BATCHING[model.batching] ?? model.batching, element("span", { className: "why" }, model.batching_reason)),
    ...fact("batch limit", plural(limits.max_batch_size, "row")),
    ...fact("longest wait", limits.max_wait_ms ? spelledMs(limits.max_wait_ms) : "none: runs when the device is free"),
    ...fact("queue limit", plural(limits.max_queue_rows, "row")),
    ...fact("deadline", limits.timeout_s === null ? "none" : `${number(limits.timeout_s)} s`),
    ...fact("inputs", ...ports(model.inputs)),
    ...fact("outputs", ...ports(model.outputs)),
  ]);
}

const TOTAL_NAMES = { requests: "answered requests", rows: "rows run" };

function showTotals(model) {
  const totals = ["requests", "rows", "batches", "errors", "refused"].map((name) => [name, TOTAL_NAMES[name] ?? name, number(model.totals[name])]);
  const facts = [...totals, ...cacheTotals(model.cache)];
  refill(byId("totals"), facts, () =>
    facts.flatMap(([name, label, value]) => [element("dt", {}, label), element("dd", { className: "count", id: `total-${name}` }, value)]),
  );
}

/** What kept answers did: rows that were not run, the device time that saved, and the memory it takes. */
function cacheTotals(cache) {
  if (!cache) return [["cache", "kept answers", "none"]];
  const share = cache.rows ? `, ${number((100 * cache.hits) / cache.rows)} %` : "";
  const hits = ["cache-hits", "rows known already", `${number(cache.hits)}${share}`];
  const saved = ["cache-saved", "device time saved", milliseconds(cache.saved_ms).join(" ")];
  const size = ["cache-bytes", "kept answers", `${number(cache.entries)}, ${compact.format(cache.bytes)} bytes`];
  return cache.is_on ? [hits, saved, size] : [hits, saved, size, ["cache-off", "cache", "steps aside: it costs more than it saves"]];
}

/** The last errors, newest first; equal ones once, with their number and the age of the newest. */
function distinctErrors(errors) {
  const found = new Map();
  for (const { age_s, status, error } of [...errors].sort((a, b) => a.age_s - b.age_s)) {
    const key = `${status} ${error}`;
    found.set(key, { age_s, status, error, ...found.get(key), count: (found.get(key)?.count ?? 0) + 1 });
  }
  return [...found.values()];
}

function showErrors(model) {
  const errors = distinctErrors(model.last_errors);
  const host = byId("last-errors");
  refill(host, errors.map(({ status, error }) => [status, error]), () => {
    if (!errors.length) return [element("p", { className: "quiet" }, "none")];
    const items = errors.map(({ status, error }) =>
      element("li", {}, element("p", {}, element("b", {}, String(status)), " ", element("span", { className: "age quiet" })), element("p", {}, error)),
    );
    return [element("ul", { className: "errors-list" }, ...items)];
  });
  host.querySelectorAll(".age").forEach((age, i) => {
    const { age_s, count } = errors[i];
    age.textContent = `${span(age_s)} ago${count > 1 ? `, ${count} of the last ${model.last_errors.length}` : ""}`;
  });
}

// ---- Try the model -----------------------------------------------------------------------------------

const isTextModel = (model) => model.inputs.length === 1 && model.inputs[0].datatype === "BYTES";
const inferUrl = (model) => new URL(`v2/models/${encodeURIComponent(model.name)}/infer`, document.baseURI).href;
const typedLines = () => byId("try-input").value.split("\n").filter((line) => line.trim() !== "");

/** Put the model's example into the editor and describe what to type. */
function prepareTry(model) {
  const { name } = model.inputs[0] ?? { name: "input" };
  const data = model.example?.inputs?.[0]?.data?.flat(Infinity) ?? [];
  const isText = isTextModel(model);
  setText("try-label", isText ? `${name}, one row per line` : "the body of the request, JSON");
  byId("try-input").value = isText ? data.join("\n") : prettyJson(model.example);
  byId("try-input").rows = isText ? 4 : 12;
  byId("try-answer").hidden = true;
  byId("try-error").hidden = true;
  setText("try-status", "");
  showCurl(model);
}

/** Indented, but lists of plain values on one line. A line break in JSON text is never inside a string. */
function prettyJson(value) {
  const text = JSON.stringify(value ?? { inputs: [] }, null, 2);
  return text.replace(/\[\n[^[\]{}]*\]/g, (list) => list.replace(/\n\s*/g, " ").replace("[ ", "[").replace(/ \]$/, "]"));
}

/** The body that Send posts and that the curl line holds: the same text in both. */
function tryBody(model) {
  if (!isTextModel(model)) return byId("try-input").value.trim().replace(/,\s*\n\s*/g, ", ").replace(/\s*\n\s*/g, "");
  const data = typedLines();
  const sample = model.example?.inputs?.[0] ?? { ...model.inputs[0], shape: [-1] };
  const input = { ...sample, shape: [data.length, ...sample.shape.slice(1)], data };
  return JSON.stringify({ ...model.example, inputs: [input] });
}

const shellQuote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function showCurl(model) {
  const parts = ["curl -s", shellQuote(inferUrl(model)), "-H 'Content-Type: application/json'", "--data-raw", shellQuote(tryBody(model))];
  setText("try-curl", parts.join(" "));
}

async function copyCurl() {
  const button = byId("try-copy");
  try {
    await navigator.clipboard.writeText(byId("try-curl").textContent);
    button.textContent = "Copied";
  } catch {
    // No clipboard (a page from another host over plain http): select the line instead.
    getSelection().selectAllChildren(byId("try-curl"));
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy"), 2500);
}

async function sendTry() {
  const model = currentModel();
  if (!model || byId("try-send").disabled) return;
  const names = isTextModel(model) ? typedLines() : [];
  byId("try-send").disabled = true;
  setText("try-status", "sending");
  const reply = await post(inferUrl(model), tryBody(model), model.limits.timeout_s);
  byId("try-send").disabled = false;
  if (page.modelKey !== modelKey(model)) return; // another model was picked meanwhile
  setText("try-status", `${reply.status}, ${spelledMs(reply.ms)} round trip`);
  if (reply.ok) showAnswer(reply, names);
  else showFailure(reply.status, reply.json?.error ?? (reply.text || "the server gave no reason"));
}

/** POST a JSON body; the reply's status, text, JSON (null when it is none) and round-trip time. */
async function post(url, body, timeoutS) {
  const started = performance.now();
  const elapsed = () => performance.now() - started;
  const signal = AbortSignal.timeout(((timeoutS ?? 60) + 5) * 1000);
  try {
    const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
    const text = await response.text();
    return { ok: response.ok, status: response.status, text, json: parsed(text), ms: elapsed() };
  } catch (error) {
    const late = error.name === "TimeoutError";
    return { ok: false, status: "no answer", text: late ? "the server took longer than its own deadline" : "the server does not answer", json: null, ms: elapsed() };
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function showFailure(status, sentence) {
  byId("try-answer").hidden = true;
  byId("try-error").hidden = false;
  byId("try-error").replaceChildren(element("b", {}, String(status)), typeof sentence === "string" ? sentence : JSON.stringify(sentence));
}

/** Every output, readable; `names` are the rows as typed, where they are text. */
function showAnswer(reply, names) {
  const outputs = reply.json?.outputs;
  if (!Array.isArray(outputs)) return showFailure(reply.status, "the answer holds no outputs");
  const raw = reply.text.length > 4000 ? `${reply.text.slice(0, 4000)} …` : reply.text;
  const details = element("details", {}, element("summary", {}, `the answer as it came, ${grouped.format(reply.text.length)} characters`), element("pre", { className: "code" }, raw));
  byId("try-error").hidden = true;
  byId("try-answer").hidden = false;
  byId("try-answer").replaceChildren(...outputs.map((output) => outputSection(output, names)), details);
}

function outputSection(output, names) {
  const rows = splitRows(output);
  const rowName = (i) => names[i] ?? `row ${i + 1}`;
  const head = element("h3", {}, output.name, element("code", { className: "port" }, `${output.datatype} ${shapeText(output.shape)}`));
  const section = element("section", {}, head, ...rows.slice(0, MAX_ANSWER_ROWS).map((row, i) => rowBlock(row, rowName(i), output)));
  if (rows.length > MAX_ANSWER_ROWS) section.append(element("p", { className: "quiet" }, `and ${plural(rows.length - MAX_ANSWER_ROWS, "more row")}`));
  if (isEmbedding(output) && rows.length > 1) section.append(similarity(rows.slice(0, MAX_ANSWER_ROWS), rowName));
  return section;
}

/** The flat data of an output, cut into its rows. */
function splitRows({ shape, data = [] }) {
  const flat = [data].flat(Infinity);
  const count = shape.length ? shape[0] : 1;
  const width = count ? flat.length / count : 0;
  return Array.from({ length: count }, (_, i) => flat.slice(i * width, (i + 1) * width));
}

const isFloat = ({ datatype }) => /^(FP|BF)\d+$/.test(datatype);
const isEmbedding = (output) => isFloat(output) && output.shape.length === 2 && output.shape[1] >= MIN_EMBEDDING_WIDTH;
const norm = (row) => Math.hypot(...row);
const cosine = (a, b) => sum(a.map((value, i) => value * b[i])) / (norm(a) * norm(b));

function valueText(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return JSON.stringify(value);
  return String(Number(value.toPrecision(4)));
}

function rowBlock(row, name, output) {
  const facts = row.length > 1 ? [plural(row.length, "value")] : [];
  if (isFloat(output) && row.length > 1) facts.push(`L2 norm ${norm(row).toPrecision(4)}`);
  const values = row.slice(0, MAX_ANSWER_VALUES).map(valueText).join(", ") + (row.length > MAX_ANSWER_VALUES ? ", …" : "");
  const head = element("p", { className: "row-head" }, element("span", { title: name }, name), element("span", {}, facts.join(", ")));
  const block = element("div", { className: "row" }, head, element("code", {}, row.length === 1 ? values : `[${values}]`));
  if (isEmbedding(output)) block.append(vectorStrip(row));
  return block;
}

/** The values of a vector as thin columns about a middle line: two alike vectors look alike. */
function vectorStrip(row) {
  const most = Math.max(...row.map(Math.abs)) || 1;
  const columns = row.map((value, i) => `M${i + 0.1} 50V${50 - (48 * value) / most}h0.8V50z`);
  const drawing = svg("svg", { viewBox: `0 0 ${row.length} 100`, preserveAspectRatio: "none", class: "vector", "aria-hidden": "true" });
  drawing.append(svg("path", { d: columns.join(""), class: "bar" }));
  return drawing;
}

function similarity(rows, rowName) {
  const heads = rows.map((_, i) => element("th", { scope: "col", title: rowName(i) }, String(i + 1)));
  const lines = rows.map((row, i) => {
    const cells = rows.map((other) => similarityCell(cosine(row, other)));
    return element("tr", {}, element("th", { scope: "row", title: rowName(i) }, `${i + 1}  ${rowName(i)}`), ...cells);
  });
  const table = element("table", { id: "try-similarity", className: "similarity" });
  table.append(element("thead", {}, element("tr", {}, element("td"), ...heads)), element("tbody", {}, ...lines));
  return element("div", {}, element("h3", {}, "Cosine similarity"), element("div", { className: "scroll" }, table));
}

function similarityCell(value) {
  const shade = element("span");
  shade.style.opacity = String(0.45 * Math.max(0, value || 0));
  return element("td", {}, shade, Number.isFinite(value) ? value.toFixed(3) : NONE);
}

// ---- The whole page ----------------------------------------------------------------------------------

const hasTraffic = ({ totals }) => totals.requests + totals.errors > 0;
const modelKey = (model) => `${model.name}/${model.version}`;

/** The picked model; the first when none is picked or it is gone; null when there is none. */
function currentModel() {
  const models = page.live?.models ?? [];
  return models.find((model) => modelKey(model) === page.modelKey) ?? models[0] ?? null;
}

function showPicker(models) {
  byId("model-picker").hidden = models.length < 2;
  refill(byId("model-select"), models.map(modelKey), () =>
    models.map((model) => element("option", { value: modelKey(model) }, model.version ? `${model.name}, version ${model.version}` : model.name)),
  );
  byId("model-select").value = page.modelKey ?? "";
}

function showModel(model) {
  if (modelKey(model) !== page.modelKey) {
    page.modelKey = modelKey(model);
    prepareTry(model);
  }
  setText("model-name", model.name);
  setText("model-line", `version ${model.version}, ${model.backend} on ${model.device}${model.ready ? "" : ", not ready yet"}`);
  showFigures(model);
  showCharts(model);
  showReasons(model);
  showTimes(model);
  showAbout(model);
  showTotals(model);
  showErrors(model);
}

const STATE_NOTICES = {
  loading: ["warn", "The server is up, and its models are loading."],
  draining: ["warn", "The server is draining: it finishes what is queued and refuses new requests."],
};

function setState(state) {
  setText("state", state);
  byId("state").dataset.state = state;
}

/** One line above everything, with a tone; no content hides it. */
function setNotice(tone, ...content) {
  const notice = byId("notice");
  notice.hidden = content.length === 0;
  notice.dataset.tone = tone;
  refill(notice, content.map((part) => part.textContent ?? part), () => content);
}

function showServer(server, model) {
  const state = server.draining ? "draining" : server.ready ? "ready" : "loading";
  setState(state);
  setText("version", server.version);
  setText("uptime", `up ${span(server.uptime_s)}`);
  document.title = model ? `${model.name}, ${number(last(model.series.requests))}/s, nograd` : "nograd";
  if (STATE_NOTICES[state]) setNotice(STATE_NOTICES[state][0], STATE_NOTICES[state][1]);
  else if (!model) setNotice("plain", "The server holds no model.");
  else if (!hasTraffic(model)) setNotice("plain", "No traffic yet: ", element("a", { href: "#try" }, "send the curl line below"), ", or press Send beside it, and watch this page move.");
  else setNotice("plain");
}

/** Draw one answer of the server. */
function show(live) {
  page.live = live;
  const model = currentModel();
  byId("live").hidden = model === null;
  byId("live").dataset.stale = "false";
  if (model) showModel(model);
  showPicker(live.models);
  showServer(live.server, model);
}

function showUnreachable(reason) {
  const since = page.reachedAt === null ? "" : ` The figures below are of ${page.reachedAt.toLocaleTimeString()}.`;
  setState("unreachable");
  setText("uptime", "");
  document.title = "unreachable, nograd";
  byId("live").dataset.stale = "true";
  setNotice("bad", `${location.host} ${reason}.${since} Trying again every second.`);
}

/** Ask once; every outcome ends on the page. */
async function refresh() {
  let response;
  try {
    response = await fetch("live.json", { cache: "no-store", signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
    if (!response.ok) return showUnreachable(`answers live.json with ${response.status}`);
    const live = await response.json();
    page.reachedAt = new Date();
    show(live);
  } catch (error) {
    const isUnread = response?.ok && error.name !== "TimeoutError";
    if (isUnread) console.error(error);
    showUnreachable(isUnread ? "answers live.json with something this page cannot read" : "does not answer");
  }
}

/** Ask once a second while the page is visible; the next question waits for the answer to the last. */
async function poll() {
  for (;;) {
    await visible();
    const started = performance.now();
    await refresh();
    await new Promise((resolve) => setTimeout(resolve, Math.max(100, POLL_MS - (performance.now() - started))));
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true })).then(visible);
}

/** Redraw what depends on the window's size or on the pointer. */
function redraw() {
  const model = currentModel();
  if (model) showCharts(model);
}

function hover(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const seconds = currentModel()?.series.seconds ?? 60;
  const second = Math.floor(((event.clientX - box.left - 44) / (box.width - 46)) * seconds);
  page.hoverSecond = event.type === "pointermove" && second >= 0 && second < seconds ? second : null;
  redraw();
}

function listen() {
  for (const id of ["throughput-chart", "latency-chart", "queue-chart"]) {
    byId(id).addEventListener("pointermove", hover);
    byId(id).addEventListener("pointerleave", hover);
  }
  new ResizeObserver(redraw).observe(byId("live"));
  byId("model-select").addEventListener("change", (event) => {
    const picked = page.live.models.find((model) => modelKey(model) === event.target.value);
    if (picked) showModel(picked);
  });
  byId("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sendTry();
  });
  byId("try-input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) sendTry();
  });
  byId("try-input").addEventListener("input", () => currentModel() && showCurl(currentModel()));
  byId("try-copy").addEventListener("click", copyCurl);
}

listen();
poll();
