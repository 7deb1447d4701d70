/** The latest decisions, newest first; older ones on request. */

import * as api from "./api.js";
import { byId, el, reconcile, setText, show } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./targets.js";

const PAGE = 15;

let known = [];
let wanted = PAGE;
let reachedEnd = false;

const works = (status) => status === null || status === "ok" || (status >= 200 && status < 300);

function create(decision) {
  const cell = (name, extra = "") =>
    el("td", { role: "cell", class: `${name} ${extra}`, "data-cell": name });
  return el("tr", { role: "row" },
    el("td", { role: "cell", class: "time" }, el("time", {}, format.clock(decision.time))),
    el("td", { role: "cell", class: "prompt" },
      el("a", { href: `#decision/${encodeURIComponent(decision.id)}`, class: "open" },
        decision.text ?? "Text not stored"),
    ),
    el("td", { role: "cell", class: "target" }, badge(decision.target)),
    cell("why"), cell("policy"), cell("quality", "number"), cell("cost", "number"),
    cell("latency", "number"), cell("status"),
  );
}

function update(row, decision) {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  row.querySelector(".open").classList.toggle("missing", decision.text === null);
  setText(cell("why"), decision.reasons?.[0] ?? format.DASH);
  setText(cell("policy"), decision.policy ?? format.DASH);
  setText(cell("quality"), format.quality(decision.quality));
  setText(cell("cost"), format.money(decision.cost_usd, 2));
  setText(cell("latency"), format.milliseconds(decision.latency_ms));
  setText(cell("status"), String(decision.status ?? format.DASH));
  cell("status").classList.toggle("bad", !works(decision.status));
}

function draw() {
  reconcile(byId("decisions"), known, (d) => d.id, create, update);
  show(byId("decisions-table"), known.length > 0);
  show(byId("decisions-empty"), known.length === 0);
  show(byId("older"), known.length > 0 && !reachedEnd);
}

/** Newer rows go first; rows already known take the newer figures (feedback, cost). */
export function showDecisions(latest) {
  const fresh = new Set(latest.map((d) => d.id));
  const overlaps = known.some((d) => fresh.has(d.id));
  if (!overlaps) {
    // More came between two looks than one page holds: a list with a gap would mislead.
    known = latest;
    reachedEnd = latest.length < PAGE;
  } else known = [...latest, ...known.filter((d) => !fresh.has(d.id))];
  // A page left open must not grow for ever.
  if (known.length > wanted) reachedEnd = false;
  known = known.slice(0, wanted);
  draw();
}

export const fetchDecisions = () => api.decisions(PAGE);

async function older() {
  const button = byId("older");
  button.disabled = true;
  try {
    const more = await api.decisions(PAGE, known.at(-1).id);
    reachedEnd = more.length < PAGE;
    known = [...known, ...more];
    wanted = known.length + PAGE;
    draw();
  } catch (error) {
    setText(byId("older-problem"), `Could not load more: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

/** Wire the list: a click anywhere on a row opens its decision. */
export function startDecisions() {
  byId("older").addEventListener("click", older);
  byId("decisions").addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return;
    event.target.closest("tr")?.querySelector("a.open")?.click();
  });
}
