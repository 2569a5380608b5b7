// Editors of a request: text, numbers, JSON, and the picture's. Each gives {element, label, focus, request}, where `request`
// returns {text} or {body, jsonLength} to send, `names` of its rows where they have some, or the `problem` that keeps it.

import { element, labelled } from "./dom.js";
import { isWhole, vectorLength } from "./kinds.js";
import { pictureEditor } from "./picture.js";
import { round125, index125 } from "./scales.js";

export const EDITORS = { text: textEditor, numbers: numbersEditor, picture: pictureEditor, json: jsonEditor };
export const EDITOR_NAMES = { text: "text", numbers: "numbers", picture: "picture", json: "JSON" };

const area = (rows) => element("textarea", { id: "try-input", rows, spellcheck: false, autocomplete: "off" });
const exampleData = (model) => model.example?.inputs?.[0]?.data?.flat(Infinity) ?? [];

function textEditor(model, changed) {
  const field = area(4);
  field.value = exampleData(model).join("\n");
  field.addEventListener("input", changed);
  const lines = () => field.value.split("\n").filter((line) => line.trim() !== "");
  const request = () => {
    const data = lines();
    const sample = model.example?.inputs?.[0] ?? { ...model.inputs[0], shape: [-1] };
    const input = { ...sample, shape: [data.length, ...sample.shape.slice(1)], data };
    return { text: JSON.stringify({ ...model.example, inputs: [input] }), names: data };
  };
  return { element: field, label: `${model.inputs[0]?.name}, one row per line`, focus: field, request };
}

function jsonEditor(model, changed) {
  const field = area(12);
  field.value = prettyJson(model.example ?? skeleton(model));
  field.addEventListener("input", changed);
  const request = () => ({ text: field.value.trim().replace(/,\s*\n\s*/g, ", ").replace(/\s*\n\s*/g, "") });
  const label = model.example ? "the body of the request, JSON" : "the body of the request, JSON; its data is yours to fill in";
  return { element: field, label, focus: field, request };
}

/** A request without data, for models whose example is too long to show. */
function skeleton({ inputs }) {
  return { inputs: inputs.map(({ name, datatype, shape }) => ({ name, shape: shape.map((size) => (size < 0 ? 1 : size)), datatype, data: [] })) };
}

/** Indented, but lists of plain values on one line. A line break in JSON text is never inside a string. */
function prettyJson(value) {
  const text = JSON.stringify(value ?? { inputs: [] }, null, 2);
  return text.replace(/\[\n[^[\]{}]*\]/g, (list) => list.replace(/\n\s*/g, " ").replace("[ ", "[").replace(/ \]$/, "]"));
}

/** A slider and a field for each number of a small vector. */
function numbersEditor(model, changed) {
  const input = model.inputs[0];
  const data = exampleData(model);
  const most = Math.max(1, ...data.map(Math.abs));
  const reach = isWhole(input.datatype) ? round125(index125(most) + 1) : round125(index125(2 * most) + 1);
  const low = input.datatype.startsWith("U") ? 0 : -reach;
  const step = isWhole(input.datatype) ? 1 : "any";
  const numbers = Array.from({ length: vectorLength(input) }, (_, i) => numberField(i, { low, reach, step, value: Number((data[i] ?? 0).toPrecision(4)) }, changed));
  const request = () => {
    const values = numbers.map(({ field }) => field.valueAsNumber);
    const missing = values.findIndex((value) => !Number.isFinite(value));
    if (missing >= 0) return { problem: `number ${missing} is missing` };
    return { text: JSON.stringify({ inputs: [{ name: input.name, shape: [1, values.length], datatype: input.datatype, data: values }] }) };
  };
  const node = element("div", { className: "numbers-editor" }, ...numbers.map(({ row }) => row));
  return { element: node, label: `${input.name}, ${numbers.length} numbers`, focus: numbers[0].field, request };
}

function numberField(i, { low, reach, step, value }, changed) {
  const field = element("input", { type: "number", step, value, id: `try-number-${i}` });
  const slider = element("input", { type: "range", min: low, max: reach, step, value, ariaLabel: `number ${i}, slider` });
  field.addEventListener("input", () => {
    slider.value = field.value;
    changed();
  });
  slider.addEventListener("input", () => {
    field.value = Number(slider.valueAsNumber.toPrecision(4));
    changed();
  });
  return { field, row: element("div", { className: "number" }, labelled(String(i), field), slider) };
}
