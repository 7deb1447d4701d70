/** A target's name, state and share; and the colour by which every page knows it. */

import { el, reconcile, setAttribute, setText, svg } from "./dom.js";
import * as format from "./format.js";

const HUES = 8;
const STATES = {
  closed: ["ready", "Answers requests"],
  half_open: ["trying again", "Failed lately; one request at a time tests it"],
  open: ["resting", "Failed lately; gets no requests until a test succeeds"],
};

/** The colour class of a target: of its name alone, so the same on every page and day. */
export function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return `hue-${sum % HUES}`;
}

/** A target's name behind its colour. */
export function badge(name) {
  if (!name) return el("span", { class: "badge none" }, "no target");
  return el("span", { class: "badge", title: name },
    el("i", { class: `dot ${hue(name)}` }), el("span", {}, name));
}

/** What a circuit's state is called, and what it means. */
export const stateOf = (state) => STATES[state] ?? [state ?? format.DASH, ""];

/** A state as a coloured word. */
export function stateBadge(state) {
  const [word, meaning] = stateOf(state);
  return el("span", { class: "state", "data-state": state, title: meaning }, word);
}

function shareOf(target) {
  if (!target.requests) return format.DASH;
  const share = format.percent(target.share, target.share < 0.1 ? 1 : 0);
  return `${share} · ${format.count(target.requests)}`;
}

function create(target) {
  const cell = (name) => el("td", { class: `number ${name}`, "data-cell": name });
  return el("tr", {},
    el("th", { scope: "row" }, badge(target.name), el("span", { "data-cell": "state" })),
    el("td", { class: "share" },
      el("span", { "data-cell": "share" }),
      svg("svg", { class: "sharebar", height: 6, "aria-hidden": "true" },
        svg("rect", { class: "track", width: "100%", height: 6, rx: 2 }),
        svg("rect", { class: `fill ${hue(target.name)}`, width: 0, height: 6, rx: 2 })),
    ),
    cell("quality"), cell("spend"),
  );
}

function update(row, target) {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  setText(cell("share"), shareOf(target));
  setAttribute(row.querySelector(".fill"), "width", `${(target.share ?? 0) * 100}%`);
  setText(cell("quality"), format.quality(target.quality));
  setText(cell("spend"), format.money(target.spend_usd, 2));
  const [word, meaning] = stateOf(target.state);
  setText(cell("state"), word);
  setAttribute(cell("state"), "data-state", target.state ?? "unknown");
  setAttribute(cell("state"), "title", meaning);
  setAttribute(cell("state"), "class", target.state === "closed" ? "unseen" : "state");
}

/** Bring the table `body` up to date. */
export function showShares(body, targets) {
  reconcile(body, targets, (t) => t.name, create, update);
}
