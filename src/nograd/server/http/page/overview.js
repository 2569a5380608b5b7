// All models of the server, a row each; picking one shows it below. Hidden where there is only one.

import { sparkline } from "./charts.js";
import { byId, element } from "./dom.js";
import { last, number, plural, spelledMs, sum } from "./format.js";
import { modelState } from "./health.js";

export const modelKey = (model) => `${model.name}/${model.version}`;

const rows = new Map(); // model key -> its row and cells: changed in place, so that focus stays where it is

/** Show `models`, `picked` of them marked; `pick` is called with the key of another one. */
export function showOverview(models, picked, pick) {
  byId("models").hidden = models.length < 2;
  const keys = models.map(modelKey);
  for (const [key, { row }] of rows) {
    if (keys.includes(key)) continue;
    row.remove();
    rows.delete(key);
  }
  models.forEach((model, i) => {
    const key = modelKey(model);
    if (!rows.has(key)) rows.set(key, newRow(key, pick));
    const shown = rows.get(key);
    const body = byId("models-body");
    if (body.children[i] !== shown.row) body.insertBefore(shown.row, body.children[i] ?? null);
    fill(shown, model, key === picked);
  });
  const count = plural(models.length, "model");
  if (byId("models-title").textContent !== count) byId("models-title").textContent = count;
}

function newRow(key, pick) {
  const button = element("button", { type: "button", className: "pick" });
  const name = element("th", { scope: "row" }, button);
  const state = element("td", {}, element("span", { className: "dot-state" }));
  const cells = Object.fromEntries(["rate", "p50", "p99", "queue", "errors", "minute"].map((each) => [each, element("td", { className: `of-${each}` })]));
  const row = element("tr", {}, name, state, ...Object.values(cells));
  row.addEventListener("click", () => pick(key));
  return { row, button, state: state.firstChild, cells };
}

function fill({ row, button, state, cells }, model, isPicked) {
  const { series } = model;
  const put = (node, content) => node.textContent !== content && (node.textContent = content);
  put(button, model.version === "1" ? model.name : `${model.name}, version ${model.version}`);
  button.setAttribute("aria-pressed", String(isPicked));
  row.className = isPicked ? "picked" : "";
  put(state, modelState(model));
  state.dataset.state = modelState(model);
  put(cells.rate, series ? `${number(last(series.requests))}/s` : "");
  put(cells.p50, spelledMs(model.latency?.p50_ms));
  put(cells.p99, spelledMs(model.latency?.p99_ms));
  put(cells.queue, number(model.queue_rows));
  put(cells.errors, series ? number(sum(series.errors)) : "");
  cells.errors.dataset.tone = series && sum(series.faults ?? []) ? "bad" : "";
  cells.minute.replaceChildren(...(series ? [sparkline(series.requests)] : []));
}
