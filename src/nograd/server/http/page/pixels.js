// Pixels to a tensor's bytes, and an infer request with a binary tensor. Pure.

/** How values of 0..255 are scaled: [name, mean, std] of what is computed as (value / 255 - mean) / std. */
export const SCALES = {
  unit: ["0 to 1", [0], [1]],
  imagenet: ["ImageNet's mean and std", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
  symmetric: ["−1 to 1", [0.5], [0.5]],
  raw: ["0 to 255", [0], [1 / 255]],
};

/** RGBA bytes as numbers in the order of a model's input: `(value / 255 - mean) / std` by channel; one channel is luminance. */
export function toTensor(rgba, { channels, channelsFirst }, mean, std) {
  const count = rgba.length / 4;
  const values = new Float32Array(count * channels);
  for (let pixel = 0; pixel < count; pixel += 1) {
    const [red, green, blue] = [rgba[4 * pixel], rgba[4 * pixel + 1], rgba[4 * pixel + 2]];
    const colours = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue]; // BT.601
    colours.forEach((value, channel) => {
      const at = channelsFirst ? channel * count + pixel : pixel * channels + channel;
      values[at] = (value / 255 - mean[channel % mean.length]) / std[channel % std.length];
    });
  }
  return values;
}

/** Numbers as the protocol's little-endian bytes of a datatype. */
export function encode(values, datatype) {
  if (datatype === "UINT8") return new Uint8Array(Uint8ClampedArray.from(values).buffer);
  if (datatype === "FP64") return new Uint8Array(Float64Array.from(values).buffer);
  if (datatype === "BF16") return new Uint8Array(Uint16Array.from(values, toBf16).buffer);
  if (datatype === "FP16") return new Uint8Array(Uint16Array.from(values, toFp16).buffer);
  return new Uint8Array(Float32Array.from(values).buffer);
}

const word = new Uint32Array(1);
const single = new Float32Array(word.buffer);

function bitsOf(value) {
  single[0] = value;
  return word[0];
}

/** The upper half of a float32, rounded to even. */
function toBf16(value) {
  const bits = bitsOf(value);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** A float16 of a value: rounded to even, too large is infinite, too small is 0 or has fewer digits. */
function toFp16(value) {
  const sign = (bitsOf(value) >>> 16) & 0x8000;
  const size = Math.abs(value);
  if (!(size < 65520)) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 2 ** -24)));
  const units = roundToEven(size / 2 ** (exponent - 10)); // 1024 to 2048 of them, fewer below 2 ** -14
  return sign | (((exponent + 14) << 10) + units); // a carry into the exponent is right as it is
}

function roundToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** The body of an infer request with one binary tensor (the extension binary_tensor_data), and the length of its JSON. */
export function binaryBody(name, shape, datatype, bytes) {
  const input = { name, shape, datatype, parameters: { binary_data_size: bytes.length } };
  const json = new TextEncoder().encode(JSON.stringify({ inputs: [input] }));
  const body = new Uint8Array(json.length + bytes.length);
  body.set(json);
  body.set(bytes, json.length);
  return { body, jsonLength: json.length };
}

/** Numbers typed as "0.5, 0.25"; null where one is none, or they are not as many as channels (or one for all). */
export function typedNumbers(text, channels) {
  const numbers = text.split(/[,\s]+/).filter(Boolean).map(Number);
  return numbers.every(Number.isFinite) && [1, channels].includes(numbers.length) ? numbers : null;
}
