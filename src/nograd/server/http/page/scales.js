// Axes: round ticks, and where a value lies between them. Pure.

/** The k-th of ... 0.5, 1, 2, 5, 10, 20 ...; k = 0 is 1. */
export const round125 = (k) => Number(`${[1, 2, 5][((k % 3) + 3) % 3]}e${Math.floor(k / 3)}`);

/** The largest k whose round number is at most `value`. */
export function index125(value) {
  let k = 3 * Math.floor(Math.log10(value)) - 1;
  while (round125(k + 1) <= value) k += 1;
  return k;
}

/** From 0 to a round number above `most`, in whole steps; `at` maps a value to 0..1. `least` is the smallest top. */
export function linearScale(most, { least = 4, steps = 5 } = {}) {
  const wanted = Math.max(most, least);
  const k = index125(wanted / steps);
  const step = round125(k) < wanted / steps ? round125(k + 1) : round125(k);
  const count = Math.ceil(wanted / step - 1e-9);
  const ticks = Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(12)));
  return { ticks, at: (value) => value / (count * step) };
}

/** Logarithmic, from a round number below `values` to one above; `at` maps a value to 0..1. */
export function logScale(values) {
  const seen = values.filter((value) => value !== null && value > 0);
  let low = index125(seen.length ? Math.min(...seen) : 1);
  let high = Math.max(index125(seen.length ? Math.max(...seen) : 99) + 1, low + 3);
  if (high - low > 6) [low, high] = [3 * Math.floor(low / 3), 3 * Math.ceil(high / 3)]; // whole decades
  const all = Array.from({ length: high - low + 1 }, (_, i) => round125(low + i));
  const ticks = all.length > 7 ? all.filter((tick) => Number.isInteger(Math.log10(tick))) : all;
  const height = Math.log(all[all.length - 1] / all[0]);
  return { ticks, at: (value) => Math.max(0, Math.log(value / all[0]) / height) };
}

/** Columns to label, at most `room` of them: the first, then round numbers. */
export function columnTicks(width, room) {
  let k = 0;
  while (width / round125(k) > room) k += 1;
  const columns = Array.from({ length: width }, (_, column) => column);
  return columns.filter((column) => (column + 1) % round125(k) === 0 || (column === 0 && round125(k) > 2));
}
