/** One decision in full, in a panel at the side. The address `#decision/ID` opens it. */

import * as api from "./api.js";
import { byId, el, setText, svg } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./targets.js";

/** Two-sided 90% interval of a normal estimate. */
const Z90 = 1.645;

function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}

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

function candidateRow(candidate, decision) {
  const chosen = decision.target;
  const barred = decision.excluded?.[candidate.target] ?? "not allowed";
  const known = Number.isFinite(candidate.quality);
  const classes = [candidate.target === chosen ? "chosen" : "", candidate.allowed ? "" : "barred"];
  return el("tr", { class: classes.join(" ").trim() || null },
    el("th", { scope: "row" }, badge(candidate.target),
      candidate.target === chosen ? el("small", {}, "chosen") : null,
      candidate.allowed ? null : el("small", {}, `left out: ${barred}`)),
    el("td", { class: "expected" }, el("span", {}, interval(candidate)),
      known ? whisker(candidate) : null),
    el("td", { class: "number" }, format.money(candidate.cost_usd)),
    el("td", { class: "number" }, format.seconds(candidate.latency_s)),
    el("td", { class: "number" }, format.decimal(candidate.score)),
  );
}

function candidates(decision) {
  const head = ["Target", "Expected quality", "Expected cost", "Latency", "Score"];
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Candidates" },
    el("table", { class: "candidates" },
      el("thead", {}, el("tr", {}, head.map((name, k) =>
        el("th", { scope: "col", class: k > 1 ? "number" : null }, name)))),
      el("tbody", {}, (decision.candidates ?? []).map((c) => candidateRow(c, decision))),
    ),
    el("p", { class: "note" },
      "Expected quality with a 90% interval; the score is what the policy maximises."),
  );
}

function features(decision) {
  const entries = Object.entries(decision.features ?? {});
  if (!entries.length) return el("p", { class: "note" }, "The router recorded none.");
  return el("dl", { class: "facts features" }, entries.map(([name, value]) =>
    fact(name.replaceAll("_", " "),
      typeof value === "number" ? format.decimal(value) : String(value) || format.DASH)));
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), ...children);
}

/** The reasons as a list. */
export function reasonList(reasons) {
  return el("ul", { class: "reasons" }, (reasons ?? []).map((reason) => el("li", {}, reason)));
}

function tokens(outcome) {
  if (!outcome || outcome.output_tokens === null) return format.DASH;
  const about = outcome.tokens_estimated ? "about " : "";
  const [read, written] = [outcome.input_tokens, outcome.output_tokens].map(format.count);
  return `${about}${read} in, ${written} out`;
}

/** What went wrong on the way: targets asked in vain, and the error of the request itself. */
function trouble(decision) {
  const { attempts = [], error = null } = decision.outcome ?? {};
  const lines = attempts.map((a) => `${a.target} was asked in vain: ${a.error}`);
  if (error && !lines.some((line) => line.endsWith(error))) lines.push(error);
  return lines.length ? section("What went wrong", reasonList(lines)) : null;
}

function went(decision) {
  const served = decision.outcome?.target ?? decision.target;
  const verb = decision.outcome?.status === "error" ? "No answer; asked " : "Went to ";
  const line = el("p", { class: "went" }, verb, badge(served));
  if (served !== decision.target) line.append("instead of ", badge(decision.target));
  return line;
}

function facts(decision) {
  return el("dl", { class: "facts" },
    fact("Policy", decision.policy ?? format.DASH),
    fact("Router", decision.router ?? format.DASH),
    fact("Propensity", format.decimal(decision.propensity)),
    fact("Deciding took", format.seconds(decision.router_seconds)),
    fact("Cost", format.money(decision.outcome?.cost_usd)),
    fact("Latency", format.seconds(decision.outcome?.latency_s)),
    fact("Tokens", tokens(decision.outcome)),
    fact("Quality", format.quality(decision.feedback?.at(-1)?.quality)),
    fact("Status", decision.outcome?.status ?? "pending"),
    fact("Time", format.clock(decision.time)),
  );
}

function body(decision) {
  return [
    decision.text ? el("blockquote", {}, decision.text) : null,
    went(decision),
    facts(decision),
    section("Why", reasonList(decision.reasons)),
    trouble(decision),
    section("Candidates", candidates(decision)),
    section("What the router read", features(decision)),
    el("details", {}, el("summary", {}, "In words"),
      (decision.explanation ?? []).map((sentence) => el("p", { class: "words" }, sentence))),
    el("details", {}, el("summary", {}, "As JSON"),
      el("pre", { tabindex: 0 }, JSON.stringify(decision, null, 2))),
  ].filter(Boolean);
}

async function open(id) {
  const panel = byId("detail");
  const content = byId("detail-body");
  setText(byId("detail-id"), id);
  content.replaceChildren(el("p", { class: "note" }, "Loading…"));
  if (!panel.open) panel.showModal();
  try {
    const decision = await api.decision(id);
    if (idInAddress() === id) content.replaceChildren(...body(decision));
  } catch (error) {
    const why = error.status === 404 ? "The store has no decision of this id." : error.message;
    content.replaceChildren(el("p", { class: "problem", role: "alert" }, why));
  }
}

function idInAddress() {
  const match = /^#decision\/(.+)$/.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}

function follow() {
  const id = idInAddress();
  if (id !== null) open(id);
  else if (byId("detail").open) byId("detail").close();
}

/** Wire the panel: address, close button, Escape (the dialog's own), click beside it. */
export function startDetail() {
  const panel = byId("detail");
  byId("detail-close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close();
  });
  panel.addEventListener("close", () => {
    if (idInAddress() !== null) history.pushState(null, "", location.pathname + location.search);
  });
  window.addEventListener("hashchange", follow);
  window.addEventListener("popstate", follow);
  follow();
}
