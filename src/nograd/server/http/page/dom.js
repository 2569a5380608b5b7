// Elements, and changing them without flicker. Text from the server enters the page as text nodes only, never as markup.

export const byId = (id) => document.getElementById(id);

/** An HTML element with properties and children; strings become text nodes. */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set an element's text, touching the page only when it changed (screen readers, selections). */
export function setText(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

/** Fill `host` anew when `key` changed, so that text a user is selecting stays put. */
export function refill(host, key, build) {
  const text = JSON.stringify(key);
  if (host.dataset.key === text) return;
  host.dataset.key = text;
  host.replaceChildren(...build());
}

/** A labelled field: the label's text, and the field. */
export function labelled(text, field, className = "field") {
  return element("label", { className }, element("span", {}, text), field);
}

/** A choice of [value, text] pairs. */
export function choice(pairs, properties = {}) {
  return element("select", properties, ...pairs.map(([value, text]) => element("option", { value }, text)));
}
