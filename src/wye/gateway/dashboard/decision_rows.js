/** Decisions as rows of a table: one stop of the Tab key, arrow keys between them. */

import { byId, el, reconcile, roving, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { decisionAddress } from "./router.js";
import { badge } from "./targets.js";

const HEAD = [
  ["time", "Time"], ["prompt", "Prompt"], ["target", "Target"], ["why", "Why"],
  ["policy", "Policy"], ["number quality", "Quality"], ["number cost", "Cost"],
  ["number latency", "Latency"], ["status", "Status"],
];

const works = (status) => status === null || status === "ok";

function create(decision) {
  const cell = (name, extra = "") =>
    el("td", { role: "cell", class: `${name} ${extra}`.trim(), "data-cell": name });
  return el("tr", { role: "row" },
    el("td", { role: "cell", class: "time" },
      el("time", { title: format.full(decision.time) }, format.clock(decision.time))),
    el("td", { role: "cell", class: "prompt" },
      el("a", { class: "open", title: decision.text }, decision.text || "Text not stored")),
    cell("target"), cell("why"), cell("policy"), cell("quality", "number"), cell("cost", "number"),
    cell("latency", "number"), cell("status"),
  );
}

function update(row, decision) {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  const link = row.querySelector(".open");
  setAttribute(link, "href", decisionAddress(decision.id));
  link.classList.toggle("missing", !decision.text);
  if (cell("target").dataset.name !== String(decision.target)) {
    cell("target").dataset.name = String(decision.target);
    cell("target").replaceChildren(badge(decision.target));
  }
  setText(cell("why"), decision.reasons?.[0] ?? format.DASH);
  setAttribute(cell("why"), "title", decision.reasons?.[0] ?? "");
  setText(cell("policy"), decision.policy ?? format.DASH);
  setText(cell("quality"), format.quality(decision.quality));
  setText(cell("cost"), format.money(decision.cost_usd, 2));
  setText(cell("latency"), format.milliseconds(decision.latency_ms));
  setText(cell("status"), String(decision.status ?? format.DASH));
  cell("status").classList.toggle("bad", !works(decision.status) && decision.status !== "pending");
}

/** Make the table around `#decisions` live; returns what shows decisions in it. */
export function decisionTable() {
  const rows = byId("decisions");
  rows.parentElement.querySelector("thead").replaceChildren(el("tr", { role: "row" },
    HEAD.map(([name, title]) =>
      el("th", { scope: "col", role: "columnheader", class: name }, title))));
  rows.addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return;
    event.target.closest("tr")?.querySelector("a.open")?.click();
  });
  const settle = roving(rows, "a.open");
  return (decisions) => {
    reconcile(rows, decisions, (d) => d.id, create, update);
    settle();
  };
}
