// An infer answer, readable: classes as bars, vectors as a strip with their likeness, text as text, anything else as values.

import { element, svg } from "./dom.js";
import { NONE, grouped, percent, plural, shapeText, sum } from "./format.js";
import { isFloat, probabilities, reading, topOf } from "./kinds.js";

const MAX_ROWS = 12; // more rows are counted, not shown
const MAX_VALUES = 8; // of one row
const TOP = 5; // classes
const SHOWN_CHARACTERS = 4000; // of the answer as it came

/** Every output of `reply`, and the answer as it came. `names` are the rows as typed, `isFromText` says they are text. */
export function answerElements(reply, names, isFromText) {
  const raw = reply.text.length > SHOWN_CHARACTERS ? `${reply.text.slice(0, SHOWN_CHARACTERS)} …` : reply.text;
  const summary = element("summary", {}, `the answer as it came, ${grouped.format(reply.text.length)} characters`);
  const details = element("details", {}, summary, element("pre", { className: "code" }, raw));
  return [...reply.json.outputs.map((output) => outputSection(output, names, isFromText)), details];
}

function outputSection(output, names, isFromText) {
  const rows = splitRows(output);
  const rowName = (i) => names[i] ?? `row ${i + 1}`;
  const kind = reading(output, rows, isFromText);
  const head = element("h3", {}, output.name, element("code", { className: "port" }, `${output.datatype} ${shapeText(output.shape)}`));
  const section = element("section", {}, head, ...rows.slice(0, MAX_ROWS).map((row, i) => rowBlock(row, rowName(i), output, kind)));
  if (rows.length > MAX_ROWS) section.append(element("p", { className: "quiet" }, `and ${plural(rows.length - MAX_ROWS, "more row")}`));
  if (kind === "vector" && rows.length > 1) section.append(similarity(rows.slice(0, MAX_ROWS), rowName));
  return section;
}

/** The flat data of an output, cut into its rows. */
function splitRows({ shape, data = [] }) {
  const flat = [data].flat(Infinity);
  const count = shape.length ? shape[0] : 1;
  const width = count ? flat.length / count : 0;
  return Array.from({ length: count }, (_, i) => flat.slice(i * width, (i + 1) * width));
}

const norm = (row) => Math.hypot(...row);
const cosine = (a, b) => sum(a.map((value, i) => value * b[i])) / (norm(a) * norm(b));

function valueText(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return JSON.stringify(value);
  return String(Number(value.toPrecision(4)));
}

function rowBlock(row, name, output, kind) {
  if (kind === "text") return element("div", { className: "row" }, rowHead(name, []), ...row.map(textBlock));
  const facts = row.length > 1 ? [plural(row.length, "value")] : [];
  if (isFloat(output) && row.length > 1) facts.push(`L2 norm ${norm(row).toPrecision(4)}`);
  const values = row.slice(0, MAX_VALUES).map(valueText).join(", ") + (row.length > MAX_VALUES ? ", …" : "");
  const block = element("div", { className: "row" }, rowHead(name, facts));
  if (kind === "classes" && row.every(Number.isFinite)) block.append(classBars(row));
  block.append(element("code", {}, row.length === 1 ? values : `[${values}]`));
  if (kind === "vector") block.append(vectorStrip(row));
  return block;
}

const rowHead = (name, facts) => element("p", { className: "row-head" }, element("span", { title: name }, name), element("span", {}, facts.join(", ")));

/** A text as it is; JSON in it indented. */
function textBlock(value) {
  return element("pre", { className: "said" }, indented(String(value)));
}

function indented(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The likeliest classes of a row of scores. */
function classBars(row) {
  const { shares, made } = probabilities(row);
  const lines = topOf(shares, TOP).map(([index, share]) => {
    const bar = element("span");
    bar.style.width = `${100 * share}%`;
    return element("li", {}, element("span", {}, `class ${index}`), element("span", { className: "track" }, bar), element("span", {}, percent(share)));
  });
  const rest = row.length > TOP ? `the likeliest ${TOP} of ${grouped.format(row.length)} classes; ` : "";
  return element("div", { className: "classes" }, element("ol", {}, ...lines), element("p", { className: "quiet" }, `${rest}${made}`));
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
