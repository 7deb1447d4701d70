/** Share, figures and state of each target; and the colour by which the page knows it. */

import { el, reconcile, setAttribute, setText, svg } from "./dom.js";
import * as format from "./format.js";

const HUES = 8;
const STATES = {
  closed: ["ready", "Answers requests"],
  half_open: ["trying again", "Failed lately; one request at a time tests it"],
  open: ["resting", "Failed lately; gets no requests until a test succeeds"],
};

const hues = new Map();

/** The colour class of a target: the same one everywhere, as long as the page is open. */
function hue(name) {
  if (!hues.has(name)) hues.set(name, `hue-${hues.size % HUES}`);
  return hues.get(name);
}

/** The colour class of a target that is already known, else nothing. */
export const knownHue = (name) => hues.get(name) ?? "";

/** A target's name behind its colour. */
export function badge(name) {
  if (!name) return el("span", { class: "badge none" }, "no target");
  return el("span", { class: "badge" }, el("i", { class: `dot ${hue(name)}` }), name);
}

function prices(target) {
  if (target.price_in === null && target.price_out === null) return "";
  const per = (value) => format.money(value);
  return `${per(target.price_in)} in, ${per(target.price_out)} out per million tokens`;
}

function shareOf(target) {
  if (!target.requests) return format.DASH;
  const share = format.percent(target.share, target.share < 0.1 ? 1 : 0);
  return `${share} · ${format.count(target.requests)}`;
}

function create(target) {
  const bar = svg("rect", { class: `fill ${hue(target.name)}`, width: 0, height: 8, rx: 2 });
  const cell = (name) => el("td", { class: `number ${name}`, "data-cell": name });
  return el("tr", {},
    el("th", { scope: "row" },
      badge(target.name),
      el("span", { class: "state", "data-cell": "state" }),
      el("small", { "data-cell": "about" }),
    ),
    el("td", { class: "share" },
      el("span", { "data-cell": "share" }),
      svg("svg", { class: "sharebar", height: 8, "aria-hidden": "true" },
        svg("rect", { class: "track", width: "100%", height: 8, rx: 2 }), bar),
    ),
    cell("quality"), cell("spend"), cell("latency"),
  );
}

function update(row, target) {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  setText(cell("about"), target.description || prices(target));
  const about = [target.description, prices(target)].filter(Boolean).join(" · ");
  setAttribute(cell("about"), "title", about);
  setText(cell("share"), shareOf(target));
  setAttribute(row.querySelector(".fill"), "width", `${(target.share ?? 0) * 100}%`);
  setText(cell("quality"), format.quality(target.quality));
  setText(cell("spend"), format.money(target.spend_usd, 2));
  setText(cell("latency"), format.milliseconds(target.latency_ms_p50));
  const [word, meaning] = STATES[target.state] ?? [target.state ?? format.DASH, ""];
  setText(cell("state"), word);
  setAttribute(cell("state"), "data-state", target.state ?? "unknown");
  setAttribute(cell("state"), "title", meaning);
  setAttribute(cell("state"), "class", target.state === "closed" ? "unseen" : "state");
}

/** Bring the table `body` up to date. */
export function showTargets(body, targets) {
  reconcile(body, targets, (t) => t.name, create, update);
}
