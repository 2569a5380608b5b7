// The editor for models that take a picture: chosen, dropped or pasted; drawn at the model's size; sent as a binary tensor.

import { choice, element, labelled } from "./dom.js";
import { bytes, shapeText } from "./format.js";
import { isWhole, pictureLayout } from "./kinds.js";
import { SCALES, binaryBody, encode, toTensor, typedNumbers } from "./pixels.js";

const FREE_SIDE = 224; // pixels of a side that the model leaves free
const FITS = [["cover", "cut to the middle"], ["contain", "whole, with margins"], ["fill", "whole, squeezed"]];

/** An editor of `model`; `changed` is called whenever what it would send is another. */
export function pictureEditor(model, changed) {
  const input = model.inputs[0];
  const layout = pictureLayout(input);
  const canvas = element("canvas", { className: "picture", role: "img" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const did = element("p", { id: "try-did", className: "quiet" });
  const fields = makeFields(layout, input);
  let source = testPicture(layout);
  let problem = "";

  async function choose(file) {
    if (!file) return;
    try {
      const bitmap = await createImageBitmap(file);
      source = { drawn: bitmap, name: file.name || "the picture", width: bitmap.width, height: bitmap.height };
      problem = "";
    } catch {
      problem = `${file.name || "what was pasted"} is not a picture that this browser can open`;
    }
    render();
  }

  function render() {
    canvas.width = layout.width > 0 ? layout.width : sideOf(fields.width);
    canvas.height = layout.height > 0 ? layout.height : sideOf(fields.height);
    drawFitted(context, source, fields.fit.value);
    canvas.setAttribute("aria-label", `${source.name} as the model sees it, ${canvas.width} by ${canvas.height} pixels`);
    did.textContent = problem || sentence(source, canvas, layout, fields, input);
    changed();
  }

  function request() {
    const numbers = scaling(fields, layout);
    if (numbers.problem) return { problem: numbers.problem };
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const values = toTensor(data, layout, numbers.mean, numbers.std);
    const shape = layout.channelsFirst ? [1, layout.channels, canvas.height, canvas.width] : [1, canvas.height, canvas.width, layout.channels];
    return { ...binaryBody(input.name, shape, input.datatype, encode(values, input.datatype)), names: [source.name] };
  }

  const { element: node, file } = frameOf(canvas, did, fields, choose);
  fields.scale?.addEventListener("input", () => {
    const [, mean, std] = SCALES[fields.scale.value];
    fields.mean.value = mean.join(", ");
    fields.std.value = std.map((each) => Number(each.toPrecision(6))).join(", ");
  });
  for (const field of Object.values(fields)) field.addEventListener("input", render);
  fields.scale?.dispatchEvent(new Event("input"));
  render();
  return { element: node, label: `${input.name}, a picture`, focus: file, request };
}

function makeFields(layout, input) {
  const number = (id) => element("input", { id, type: "number", min: 8, max: 4096, value: FREE_SIDE });
  const typed = (id) => element("input", { id, type: "text", autocomplete: "off", size: 18 });
  return {
    fit: choice(FITS, { id: "try-fit" }),
    ...(layout.width > 0 ? {} : { width: number("try-width") }),
    ...(layout.height > 0 ? {} : { height: number("try-height") }),
    ...(isWhole(input.datatype) ? {} : { scale: choice(scaleChoices(layout), { id: "try-scale" }), mean: typed("try-mean"), std: typed("try-std") }),
  };
}

const scaleChoices = ({ channels }) => Object.entries(SCALES).flatMap(([key, [name, mean]]) => (mean.length === 1 || mean.length === channels ? [[key, name]] : []));
const sideOf = (field) => Math.min(4096, Math.max(8, Math.round(Number(field.value)) || FREE_SIDE));

/** Mean and standard deviation, or the problem with them. */
function scaling(fields, { channels }) {
  if (!fields.mean) return { mean: [0], std: [1 / 255] };
  const [mean, std] = [fields.mean, fields.std].map(({ value }) => typedNumbers(value, channels));
  const many = channels === 1 ? "one number" : `one number, or ${channels} with commas`;
  if (!mean) return { problem: `mean is “${fields.mean.value}”; it takes ${many}` };
  if (!std || std.includes(0)) return { problem: `std is “${fields.std.value}”; it takes ${many}, not 0` };
  return { mean, std };
}

/** What was made of the picture, in one sentence. */
function sentence(source, canvas, layout, fields, input) {
  const { mean, std, problem } = scaling(fields, layout);
  if (problem) return problem;
  const fitted = { cover: "its middle", contain: "the whole of it, with margins,", fill: "the whole of it, squeezed," }[fields.fit.value];
  const colour = layout.channels === 1 ? "grey" : "RGB";
  const short = (numbers) => (numbers.length === 1 ? String(Number(numbers[0].toPrecision(4))) : shapeText(numbers));
  const isPlain = mean.every((each) => each === 0) && std.every((each) => each === 1);
  const scaled = !fields.mean ? "0 to 255" : isPlain ? "value / 255" : `(value / 255 − ${short(mean)}) / ${short(std)}`;
  const shape = layout.channelsFirst ? [1, layout.channels, canvas.height, canvas.width] : [1, canvas.height, canvas.width, layout.channels];
  const size = encode([0], input.datatype).length * canvas.width * canvas.height * layout.channels;
  return `${source.name}, ${source.width} × ${source.height}: ${fitted} drawn at ${canvas.width} × ${canvas.height}, ${colour}, ${scaled}; ${input.datatype} ${shapeText(shape)}, ${bytes(size)}`;
}

function drawFitted(context, { drawn, width, height }, fit) {
  const { canvas } = context;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (fit === "fill") return context.drawImage(drawn, 0, 0, canvas.width, canvas.height);
  const scale = (fit === "cover" ? Math.max : Math.min)(canvas.width / width, canvas.height / height);
  context.drawImage(drawn, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2, width * scale, height * scale);
}

/** Something to send before a picture is chosen: a digit where the model sees grey, else a landscape. */
function testPicture({ channels }) {
  const canvas = element("canvas", { width: 256, height: 256 });
  const context = canvas.getContext("2d");
  (channels === 1 ? drawDigit : drawLandscape)(context);
  return { drawn: canvas, name: "a test picture", width: 256, height: 256 };
}

function drawDigit(context) {
  context.fillRect(0, 0, 256, 256);
  context.strokeStyle = "#fff";
  context.lineWidth = 30;
  context.lineCap = context.lineJoin = "round";
  context.stroke(new Path2D("M84 66C126 34 178 52 170 92C164 122 128 126 112 126C150 124 178 142 172 180C164 222 110 226 76 196"));
}

function drawLandscape(context) {
  const sky = context.createLinearGradient(0, 0, 0, 256);
  sky.addColorStop(0, "#5b9bd8");
  sky.addColorStop(1, "#f6d9a8");
  const shapes = [[sky, "M0 0H256V256H0z"], ["#fff3c4", "M196 66m-26 0a26 26 0 1 0 52 0a26 26 0 1 0 -52 0"], ["#5d6f84", "M0 190L74 92L128 164L168 118L256 206V256H0z"], ["#3f7a4c", "M0 206C70 178 150 236 256 196V256H0z"]];
  for (const [colour, path] of shapes) {
    context.fillStyle = colour;
    context.fill(new Path2D(path));
  }
}

/** The editor's elements, and every way in for a picture. */
function frameOf(canvas, did, fields, choose) {
  const file = element("input", { id: "try-file", type: "file", accept: "image/*" });
  file.addEventListener("change", () => choose(file.files[0]));
  const names = { fit: "fit", width: "width", height: "height", scale: "scale", mean: "mean", std: "std" };
  const settings = Object.entries(fields).map(([key, field]) => labelled(names[key], field));
  const inside = [labelled("choose a picture, drop one here, or paste one", file), element("div", { className: "settings" }, ...settings), did];
  const node = element("div", { className: "picture-editor" }, canvas, element("div", {}, ...inside));
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("over");
  });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    node.classList.remove("over");
    choose(event.dataTransfer.files[0]);
  });
  node.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
  return { element: node, file };
}
