// The live page of nograd: asks the server for live.json once a second, and shows it. Each other module owns one idea.

import { pointer } from "./charts.js";
import { byId, element, refill, setText } from "./dom.js";
import { showAbout, showCache, showErrors, showReasons, showTimes, showTotals } from "./facts.js";
import { hasTraffic, showCharts, showFigures } from "./figures.js";
import { last, number, span } from "./format.js";
import { ailments, modelState, serverState } from "./health.js";
import { askForKey, keyHeaders, listenToKey } from "./key.js";
import { modelKey, showOverview } from "./overview.js";
import { listenToTry, prepareTry } from "./playground.js";

const POLL_MS = 1000;
const POLL_TIMEOUT_MS = 5000;

const page = {
  live: null, // the last live.json
  modelKey: keyInAddress(), // the model on screen, or to be
  triedKey: null, // what the form below was made for: a model and its Signature
  reachedAt: null, // when the server last answered
};

/** The model that the address names, as `pick` writes it; null where it names none. */
function keyInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null; // no percent-encoding
  }
}

/** The picked model; the first when none is picked or it is gone; null when there is none. */
function currentModel() {
  const models = page.live?.models ?? [];
  return models.find((model) => modelKey(model) === page.modelKey) ?? models[0] ?? null;
}

function pick(key) {
  page.modelKey = key;
  history.replaceState(null, "", `#${encodeURIComponent(key)}`);
  if (page.live) show(page.live);
}

function showModel(model) {
  const triedKey = JSON.stringify([modelKey(model), model.inputs, model.example]);
  if (triedKey !== page.triedKey) {
    page.triedKey = triedKey;
    prepareTry(model);
  }
  setText("model-name", model.name);
  const state = modelState(model);
  setText("model-line", `version ${model.version}, ${model.backend} on ${model.device}${state === "ready" ? "" : `, ${state}`}`);
  showFigures(model);
  showCharts(model);
  showReasons(model);
  showTimes(model);
  showCache(model.cache);
  showAbout(model);
  showTotals(model);
  showErrors(model);
}

function setState(state, tone) {
  setText("state", state);
  byId("state").dataset.state = state;
  byId("state").dataset.tone = tone;
}

/** One box above everything, with a tone; no content hides it. */
function setNotice(tone, ...content) {
  const notice = byId("notice");
  notice.hidden = content.length === 0;
  notice.dataset.tone = tone;
  refill(notice, content.map((part) => part.textContent ?? part), () => content);
}

/** Which of several processes this page shows. */
function oneOf(server) {
  if (server.replica !== undefined) return [`replica ${server.replica} of ${server.replicas.length}`];
  return server.worker === undefined ? [] : [`worker ${server.worker} of ${server.workers.length}`];
}

function showServer(live, model) {
  const { server } = live;
  const ills = ailments(live);
  setState(serverState(server), ills.length ? ills[0][0] : "good");
  setText("version", [server.version, ...oneOf(server)].join(", "));
  setText("uptime", `up ${span(server.uptime_s)}`);
  document.title = model?.series ? `${model.name}, ${number(last(model.series.requests))}/s, nograd` : "nograd";
  if (ills.length) setNotice(ills[0][0], ...ills.map(([, sentence]) => element("p", {}, sentence)));
  else if (!model) setNotice("plain", "The server holds no model.");
  else if (!hasTraffic(model)) setNotice("plain", "No traffic yet: ", element("a", { href: "#try" }, "press Send below"), ", or paste the curl line below it into a shell, and watch this page move.");
  else setNotice("plain");
}

/** Draw one answer of the server. */
function show(live) {
  page.live = live;
  const model = currentModel();
  if (model) page.modelKey = modelKey(model); // it stays when others come
  byId("live").hidden = model === null;
  byId("live").dataset.stale = "false";
  showOverview(live.models, model && modelKey(model), pick);
  if (model) showModel(model);
  showServer(live, model);
}

function showUnreachable(reason) {
  const since = page.reachedAt === null ? "" : ` The figures below are of ${page.reachedAt.toLocaleTimeString()}.`;
  setState("unreachable", "bad");
  setText("uptime", "");
  document.title = "unreachable, nograd";
  byId("live").dataset.stale = "true";
  setNotice("bad", `${location.host} ${reason}.${since} Trying again every second.`);
}

/** The server wants a key, or another one; the promise ends when one is given. */
function showLocked() {
  setState("locked", "warn");
  document.title = "locked, nograd";
  byId("live").dataset.stale = "true";
  const isRefused = Object.keys(keyHeaders()).length > 0;
  setNotice("warn", isRefused ? "This API key is unknown." : `${location.host} shows its figures to those who have an API key.`);
  return askForKey();
}

/** Ask once; every outcome ends on the page. */
async function refresh() {
  let response;
  try {
    response = await fetch("live.json", { cache: "no-store", headers: keyHeaders(), signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
    if (response.status === 401) return showLocked();
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
  if (model?.series) showCharts(model);
}

function hover(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const seconds = currentModel()?.series.seconds ?? 60;
  const second = Math.floor(((event.clientX - box.left - 44) / (box.width - 46)) * seconds);
  pointer.second = event.type === "pointermove" && second >= 0 && second < seconds ? second : null;
  redraw();
}

for (const id of ["throughput-chart", "latency-chart", "queue-chart"]) {
  byId(id).addEventListener("pointermove", hover);
  byId(id).addEventListener("pointerleave", hover);
}
new ResizeObserver(redraw).observe(byId("live"));
listenToTry();
listenToKey();
poll();
