/** The candidates of a decision: what was expected of each, and what the policy made of it. */

import { el, svg } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./targets.js";

/** Two-sided 90% interval of a normal estimate. */
const Z90 = 1.645;

/** Expected quality with its interval on a line from 0 to 1. */
function whisker(candidate) {
  const at = (value) => `${Math.min(1, Math.max(0, value)) * 100}%`;
  const spread = (candidate.quality_std ?? 0) * Z90;
  const [low, high] = [candidate.quality - spread, candidate.quality + spread];
  return svg("svg", { class: "whisker", height: 14, "aria-hidden": "true" },
    svg("line", { class: "track", x1: 0, x2: "100%", y1: 7, y2: 7 }),
    svg("line", { class: "spread", x1: at(low), x2: at(high), y1: 7, y2: 7 }),
    svg("circle", { class: "mean", cx: at(candidate.quality), cy: 7, r: 4 }),
  );
}

function interval(candidate) {
  if (candidate.quality === null || candidate.quality === undefined) return format.DASH;
  if (candidate.quality_std === null || candidate.quality_std === undefined) {
    return format.quality(candidate.quality);
  }
  return `${format.quality(candidate.quality)} ± ${format.quality(candidate.quality_std * Z90)}`;
}

function row(candidate, decision, columns) {
  const chosen = candidate.target === decision.target;
  const barred = decision.excluded?.[candidate.target] ?? "not allowed";
  const classes = [chosen ? "chosen" : "", candidate.allowed ? "" : "barred"].join(" ").trim();
  return el("tr", { class: classes || null },
    el("th", { scope: "row" }, badge(candidate.target),
      chosen ? el("small", {}, "chosen") : null,
      candidate.allowed ? null : el("small", {}, `left out: ${barred}`)),
    el("td", { class: "expected" }, el("span", {}, interval(candidate)),
      Number.isFinite(candidate.quality) ? whisker(candidate) : null),
    columns.map(([, tell]) => el("td", { class: "number" }, tell(candidate))),
  );
}

/** A table of `decision.candidates`; figures that no candidate has get no column. */
export function candidatesTable(decision) {
  const list = decision.candidates ?? [];
  const some = (name) => list.some((c) => c[name] !== null && c[name] !== undefined);
  const columns = [
    ["Cost", (c) => format.money(c.cost_usd)],
    some("switch_cost_usd") ? ["Switch", (c) => format.money(c.switch_cost_usd)] : null,
    some("latency_s") ? ["Latency", (c) => format.seconds(c.latency_s)] : null,
    ["Score", (c) => format.decimal(c.score)],
    some("probability") ? ["Chance", (c) => format.percent(c.probability)] : null,
  ].filter(Boolean);
  const about = [
    "Expected quality with a 90% interval and expected cost; the score is what the policy maximises.",
    some("switch_cost_usd") ? "Switch: what leaving the conversation's cache costs." : "",
  ];
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Candidates" },
    el("table", { class: "candidates" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Target"),
        el("th", { scope: "col" }, "Quality"),
        columns.map(([name]) => el("th", { scope: "col", class: "number" }, name)))),
      el("tbody", {}, list.map((c) => row(c, decision, columns)))),
    el("p", { class: "note" }, about.join(" ").trim()),
  );
}
