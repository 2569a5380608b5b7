// Numbers as text.

export const NONE = "–";
export const MINUS = "−";

export const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
export const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three significant digits, grouped thousands; a dash for what was not measured. */
export function number(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 100) return grouped.format(value);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.1) return value.toFixed(2);
  return String(Number(value.toPrecision(2)));
}

/** A share of 0 to 1 as percent; what is there is never called 0. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return NONE;
  if (share > 0 && share < 0.001) return "<0.1 %";
  return `${Math.round(share * 1000) / 10} %`;
}

/** [figure, unit] of a time given in milliseconds. */
export function milliseconds(ms) {
  return ms >= 10_000 ? [number(ms / 1000), "s"] : [number(ms), "ms"];
}

export const spelledMs = (ms) => (ms === null || ms === undefined ? NONE : milliseconds(ms).join(" "));

const PLURALS = { batch: "batches", query: "queries" };
export const plural = (count, noun) => `${number(count)} ${count === 1 ? noun : (PLURALS[noun] ?? `${noun}s`)}`;

/** A number of bytes with its unit. */
export function bytes(count) {
  if (count < 1000) return plural(count, "byte");
  if (count < 1e6) return `${number(count / 1e3)} kB`;
  return count < 1e9 ? `${number(count / 1e6)} MB` : `${number(count / 1e9)} GB`;
}

/** A span of seconds in its two largest units: "3 min 20 s". */
export function span(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor(whole / 3600) % 24} h`;
}

export const last = (values) => values[values.length - 1] ?? null;
export const sum = (values) => values.reduce((total, value) => total + value, 0);
export const largest = (...series) => series.flat().reduce((most, value) => Math.max(most, value ?? 0), 0);
export const shapeText = (shape) => `[${shape.join(", ")}]`;
