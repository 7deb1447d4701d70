/**
 * Elements from plain values.
 *
 * Everything that comes from the gateway (prompts, answers, names, reasons) is hostile until shown
 * otherwise: it becomes a text node or an attribute value here, never markup.
 */

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; functions among `attributes` become listeners of the event they name. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`the page has no element #${id}`);
  return node;
}

/** Write `text` only where it differs, so that a refresh neither flickers nor is read out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Write an attribute only where it differs. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Show or hide. */
export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/**
 * Make the children of `parent` those of `items`, in order, and keep the nodes of items that stay:
 * focus, selection and scroll position survive a refresh.
 */
export function reconcile(parent, items, key, create, update) {
  const old = new Map();
  for (const node of parent.children) old.set(node.dataset.key, node);
  let cursor = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let node = old.get(name);
    if (node) old.delete(name);
    else {
      node = create(item);
      node.dataset.key = name;
    }
    update(node, item);
    if (node === cursor) cursor = cursor.nextElementSibling;
    else parent.insertBefore(node, cursor);
  }
  for (const node of old.values()) node.remove();
}

/** Call `draw` when `value` differs from that of the last call, compared as JSON. */
export function whenChanged(draw) {
  let last;
  return (value) => {
    const text = JSON.stringify(value);
    if (text === last) return;
    last = text;
    draw(value);
  };
}

/**
 * One stop of the Tab key for a list: the arrow keys, Home and End move among the `selector` in it.
 * Returns what to call after each change of the list.
 */
export function roving(container, selector) {
  const all = () => [...container.querySelectorAll(selector)];
  const choose = (chosen) => {
    for (const node of all()) setAttribute(node, "tabindex", node === chosen ? 0 : -1);
  };
  container.addEventListener("focusin", (event) => {
    const node = event.target.closest(selector);
    if (node) choose(node);
  });
  container.addEventListener("keydown", (event) => {
    const nodes = all();
    const at = nodes.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    nodes[Math.min(Math.max(to, 0), nodes.length - 1)].focus();
  });
  return () => {
    const nodes = all();
    choose(nodes.find((node) => node === document.activeElement) ??
      nodes.find((node) => node.tabIndex === 0 && node.hasAttribute("tabindex")) ?? nodes[0]);
  };
}

/** A definition of a list of facts. */
export function fact(name, ...value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, ...value));
}

export function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}
