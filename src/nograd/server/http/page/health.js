// Whether the server is well, and what is not, in sentences. Pure: one answer of live.json in, words out.

import { number, percent, spelledMs, sum } from "./format.js";

/** Shares from which something is worth a word, and from which it is bad. */
const FAULTS = [0.01, 0.1]; // of the last minute's requests, failed with 500 and above
const QUEUE = [0.5, 0.9]; // of the queue's limit
const LATENCY = [0.5, 0.9]; // p99, of the deadline
const STUCK = [0.01, 1]; // of a model's threads for pre- and postprocessing

export const modelState = (model) => model.state ?? (model.ready ? "ready" : "warming");
export const serverState = (server) => (server.draining ? "draining" : server.lost ? "lost" : server.ready ? "ready" : "warming");

const STATES = {
  warming: ["warn", "The server is up, and its models are warming up: requests are refused with 503 until they are ready."],
  lost: ["bad", "Device lost, restart needed: the model of that device answers 503; the log has the cause."],
  draining: ["warn", "The server is draining: it finishes what is queued and refuses new requests."],
};

/** [tone, sentence] of all that is not well, the worst first; nothing when all is. */
export function ailments({ server, models }) {
  const found = STATES[serverState(server)] ? [STATES[serverState(server)]] : [];
  for (const model of models.filter(({ series }) => series)) found.push(...modelAilments(model, models.length > 1 ? `${model.name}: ` : ""));
  return found.sort(([a], [b]) => Number(b === "bad") - Number(a === "bad"));
}

function modelAilments(model, name) {
  const { series, limits, latency } = model;
  const requests = sum(series.requests) + sum(series.errors);
  const faults = sum(series.faults ?? []);
  return [
    [faults / requests, FAULTS, `${name}${number(faults)} of ${number(requests)} requests of the last minute failed (${percent(faults / requests)}); see the last errors`],
    [model.queue_rows / limits.max_queue_rows, QUEUE, `${name}${number(model.queue_rows)} rows wait, of ${number(limits.max_queue_rows)} that may: beyond, requests are refused with 503`],
    [model.code ? model.code.stuck / model.code.threads : 0, STUCK, `${name}${number(model.code?.stuck ?? 0)} of ${number(model.code?.threads ?? 0)} threads for pre- and postprocessing are stuck; the log has their stacks`],
    [latency.p99_ms / 1000 / limits.timeout_s, LATENCY, `${name}p99 is ${spelledMs(latency.p99_ms)}, and requests are given up after ${number(limits.timeout_s)} s`],
  ].flatMap(([share, [notable, bad], sentence]) => (share >= notable ? [[share >= bad ? "bad" : "warn", sentence]] : []));
}
