// What can be made of a Signature: which editors suit a model's inputs, and how its outputs are read. Pure.

const PIXELS = ["FP32", "FP16", "BF16", "FP64", "UINT8"];
const NUMBERS = ["FP32", "FP16", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"];
const MOST_NUMBERS = 12; // fields that are still quick to fill in
const SMALLEST_PICTURE = 8; // pixels

/** The editors of a model, the best first: "text", "picture", "numbers", and always "json". */
export function editorsFor({ inputs }) {
  const best = inputs.length === 1 ? suits(inputs[0]) : null;
  return best ? [best, "json"] : ["json"];
}

function suits(input) {
  if (input.datatype === "BYTES") return input.shape.length === 1 || (input.shape.length === 2 && input.shape[1] === 1) ? "text" : null;
  if (pictureLayout(input)) return "picture";
  return vectorLength(input) ? "numbers" : null;
}

/** How an input holds a picture: {channelsFirst, channels, height, width}, -1 for a side that is free; null if it does not. */
export function pictureLayout({ shape, datatype }) {
  if (shape.length !== 4 || !PIXELS.includes(datatype)) return null;
  for (const channelsFirst of [true, false]) {
    const [channels, height, width] = channelsFirst ? shape.slice(1) : [shape[3], shape[1], shape[2]];
    const isPicture = [1, 3].includes(channels) && [height, width].every((side) => side === -1 || side >= SMALLEST_PICTURE);
    if (isPicture) return { channelsFirst, channels, height, width };
  }
  return null;
}

/** The length of a small fixed vector of numbers; 0 for anything else. */
export function vectorLength({ shape, datatype }) {
  const isSmall = shape.length === 2 && shape[1] >= 1 && shape[1] <= MOST_NUMBERS;
  return isSmall && NUMBERS.includes(datatype) ? shape[1] : 0;
}

export const isWhole = (datatype) => /^U?INT/.test(datatype);
export const isFloat = ({ datatype }) => /^(FP|BF)\d+$/.test(datatype);

const norm = (row) => Math.hypot(...row);

/**
 * How an output is shown: "text", "classes" (a row of scores), "vector" (a row that means something as a whole), "values".
 * A name that says so decides; else a row of length 1 is a vector; else what was made of text is a vector, and the rest classes.
 */
export function reading(output, rows, isFromText) {
  if (output.datatype === "BYTES") return "text";
  if (!isFloat(output) || output.shape.length !== 2 || output.shape[1] < 2) return "values";
  if (/logit|prob|score|class|label/i.test(output.name)) return "classes";
  if (/embed|hidden|pool|vector|feature/i.test(output.name)) return "vector";
  if (rows.length && rows.every((row) => Math.abs(norm(row) - 1) < 1e-3)) return "vector";
  return isFromText && output.shape[1] >= 8 ? "vector" : "classes";
}

/** Scores as probabilities: as they are where they add up to 1, else their softmax. */
export function probabilities(row) {
  const total = row.reduce((sum, value) => sum + value, 0);
  if (row.every((value) => value >= 0) && Math.abs(total - 1) < 1e-3) return { shares: row, made: "as answered: they add up to 1" };
  const most = Math.max(...row);
  const powers = row.map((value) => Math.exp(value - most));
  const all = powers.reduce((sum, value) => sum + value, 0);
  return { shares: powers.map((value) => value / all), made: "softmax of the scores" };
}

/** The `count` largest of a row: [index, value], the largest first. */
export function topOf(row, count) {
  return row
    .map((value, index) => [index, value])
    .sort(([, a], [, b]) => b - a)
    .slice(0, count);
}
