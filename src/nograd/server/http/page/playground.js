// Try the model: an editor made from its Signature, Send, the answer, and the same from a shell.

import { answerElements } from "./answer.js";
import { PICTURE_FILE, curlLine } from "./curl.js";
import { byId, element, setText } from "./dom.js";
import { EDITORS, EDITOR_NAMES } from "./editors.js";
import { spelledMs } from "./format.js";
import { askForKey, isKeyWanted, keyHeaders } from "./key.js";
import { editorsFor } from "./kinds.js";

const tried = { model: null, kind: "json", editor: null };

const modelUrl = ({ name, version }) => (version === "1" ? encodeURIComponent(name) : `${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`);
const inferUrl = (model) => new URL(`v2/models/${modelUrl(model)}/infer`, document.baseURI).href;

/** Make the form anew for `model`. */
export function prepareTry(model) {
  tried.model = model;
  const kinds = editorsFor(model);
  const buttons = kinds.map((kind) => {
    const radio = element("input", { type: "radio", name: "try-kind", value: kind, checked: kind === kinds[0] });
    radio.addEventListener("change", () => useEditor(kind));
    return element("label", {}, radio, element("span", {}, EDITOR_NAMES[kind]));
  });
  byId("try-kinds").replaceChildren(...buttons);
  byId("try-kinds").hidden = kinds.length < 2;
  useEditor(kinds[0]);
}

function useEditor(kind) {
  tried.kind = kind;
  tried.editor = null; // while it is made, it has nothing to show yet
  tried.editor = EDITORS[kind](tried.model, showCurl);
  const { element: node, label, focus } = tried.editor;
  byId("try-editor").replaceChildren(node);
  byId("try-label").htmlFor = focus.id;
  setText("try-label", label);
  byId("try-answer").hidden = true;
  byId("try-error").hidden = true;
  setText("try-status", "");
  showCurl();
}

function showCurl() {
  if (!tried.editor) return;
  const request = tried.editor.request();
  if (!request.problem) setText("try-curl", curlLine(inferUrl(tried.model), request, { needsKey: isKeyWanted() }));
  byId("try-save").hidden = !request.body;
}

async function send() {
  const { model, editor, kind } = tried;
  if (!model || byId("try-send").disabled) return;
  const request = editor.request();
  if (request.problem) return showFailure("not sent", request.problem);
  byId("try-send").disabled = true;
  setText("try-status", "sending");
  const reply = await post(inferUrl(model), request, model.limits.timeout_s);
  byId("try-send").disabled = false;
  if (tried.editor !== editor) return; // another model was picked meanwhile
  setText("try-status", `${reply.status}, ${spelledMs(reply.ms)} round trip`);
  if (reply.status === 401) {
    askForKey();
    showCurl();
  }
  if (!reply.ok) showFailure(reply.status, reply.json?.error ?? (reply.text || "the server gave no reason"));
  else if (!Array.isArray(reply.json?.outputs)) showFailure(reply.status, "the answer holds no outputs");
  else showAnswer(answerElements(reply, request.names ?? [], kind === "text"));
}

/** POST a request; the reply's status, text, JSON (null when it is none) and round-trip time. */
async function post(url, request, timeoutS) {
  const started = performance.now();
  const elapsed = () => performance.now() - started;
  const signal = AbortSignal.timeout(((timeoutS ?? 60) + 5) * 1000);
  const json = { "Content-Type": "application/json" };
  const binary = { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(request.jsonLength) };
  const headers = { ...(request.body ? binary : json), ...keyHeaders() };
  try {
    const response = await fetch(url, { method: "POST", headers, body: request.body ?? request.text, signal });
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

function showAnswer(elements) {
  byId("try-error").hidden = true;
  byId("try-answer").hidden = false;
  byId("try-answer").replaceChildren(...elements);
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

/** Save the bytes that the curl line sends. */
function saveBody() {
  const url = URL.createObjectURL(new Blob([tried.editor.request().body]));
  element("a", { href: url, download: PICTURE_FILE }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function listenToTry() {
  byId("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("try-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  byId("try-copy").addEventListener("click", copyCurl);
  byId("try-save").addEventListener("click", saveBody);
}
