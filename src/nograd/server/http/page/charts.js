// Drawings in SVG: their colours come from the style sheet, their size from the host. Nothing here knows a model.

import { byId, element, svg } from "./dom.js";
import { MINUS, compact, largest, number, plural } from "./format.js";
import { columnTicks, linearScale } from "./scales.js";

/** The second under the pointer, an index into the series; null when there is none. */
export const pointer = { second: null };

/** The plotting area of `host`, in pixels, with its SVG, gridlines and labelled y axis. */
export function frame(host, scale, unit, label) {
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

export function text(x, y, anchor, content, className = "") {
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
    const found = runs(values);
    const at = (i) => `${area.x(i)} ${area.y(values[i])}`;
    const path = found.filter((run) => run.length > 1).map((run) => `M${run.map(at).join("L")}`);
    const dots = found.filter((run) => run.length === 1).map(([i]) => `M${at(i)}h0.01`);
    return svg("g", { class: className }, svg("path", { d: path.join(""), class: "line" }), svg("path", { d: dots.join(""), class: "line dot" }));
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
export function timeChart(id, { scale, unit, label, layers, seconds, empty }) {
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
  if (pointer.second !== null && !empty) {
    const x = area.x(pointer.second);
    const ago = `${seconds - pointer.second} s ago`;
    const anchor = x < area.left + 40 ? "start" : x > area.right - 40 ? "end" : "middle";
    area.root.append(svg("line", { x1: x, x2: x, y1: area.top, y2: area.bottom, class: "cross" }), text(x, area.top - 7, anchor, ago));
  }
  host.replaceChildren(area.root);
}

/** Columns of [rows in a batch, batches]; above 64 rows neighbours share a column. */
export function histogram(id, counts, empty) {
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
    bar.append(svg("title", {}, `${name(column)} rows: ${plural(batches, "batch")}`));
    area.root.append(bar);
  }
  for (const column of columnTicks(width, (area.right - area.left) / 40)) {
    area.root.append(text(area.x(column), area.bottom + 17, "middle", number((column + 1) * perColumn)));
  }
  area.root.append(text(0, area.bottom + 17, "start", "rows"));
  if (empty) area.root.append(emptyText(area, empty));
  byId(id).replaceChildren(area.root);
}

/**
 * A curve of [x, y] points and what was seen beside it, each {x, low, middle, high, share, title}; `share` of 0..1 is how
 * much was seen there. `top` is the largest y shown.
 */
export function curveChart(id, { curve, seen, xUnit, yUnit, label, top, empty }) {
  const xScale = linearScale(largest(curve.map(([x]) => x), seen.map(({ x }) => x)), { least: 4, steps: 6 });
  const area = frame(byId(id), linearScale(top, { least: 1e-3 }), yUnit, label);
  area.x = (value) => area.left + xScale.at(value) * (area.right - area.left - 6);
  const y = (value) => Math.max(area.y(value), area.top - 4);
  for (const tick of xScale.ticks.slice(1)) area.root.append(text(area.x(tick), area.bottom + 17, "middle", compact.format(tick)));
  area.root.append(text(0, area.bottom + 17, "start", xUnit));
  if (curve.length) {
    const path = curve.map(([x, value]) => `${area.x(x)} ${area.y(value)}`).join("L");
    area.root.append(svg("path", { d: `M${path}${curve.length === 1 ? "h0.01" : ""}`, class: "line predicted" }));
  }
  for (const { x, low, middle, high, share, title } of seen) {
    const at = area.x(x);
    const mark = svg("g", { class: "seen", "data-size": x });
    mark.append(
      svg("title", {}, title),
      svg("line", { x1: at, x2: at, y1: y(low), y2: y(high), class: "whisker" }),
      svg("circle", { cx: at, cy: y(middle), r: 2.2 + 2.3 * Math.sqrt(share) }),
    );
    area.root.append(mark);
  }
  if (empty) area.root.append(emptyText(area, empty));
  byId(id).replaceChildren(area.root);
}

/** A small drawing of counts without axes, for a table. */
export function sparkline(values) {
  const most = Math.max(1, ...values);
  const columns = values.map((value, i) => (value ? `M${i} 20V${20 - Math.max(1, (19 * value) / most)}h0.8V20z` : ""));
  const drawing = svg("svg", { viewBox: `0 0 ${values.length} 20`, preserveAspectRatio: "none", class: "spark", "aria-hidden": "true" });
  drawing.append(svg("path", { d: columns.join(""), class: "bar requests-bar" }));
  return drawing;
}

/** Legend entries [class, name, value, shape of the key] with a colour key each. */
export function legend(id, entries) {
  const items = entries.map(([className, name, value, shape = ""]) =>
    element("li", {}, element("span", { className: `key ${className} ${shape}` }), value === undefined ? name : `${name} `, ...(value === undefined ? [] : [element("b", {}, value)])),
  );
  byId(id).replaceChildren(...items);
}
