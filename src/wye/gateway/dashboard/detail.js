/** One decision in full, in a panel at the side of the list. */

import * as api from "./api.js";
import { candidatesTable } from "./candidates.js";
import { byId, el, fact, section, setText } from "./dom.js";
import * as format from "./format.js";
import { replaySection } from "./replay.js";
import { address } from "./router.js";
import { badge } from "./targets.js";

function features(decision) {
  const entries = Object.entries(decision.features ?? {});
  if (!entries.length) return el("p", { class: "note" }, "The router recorded none.");
  const told = (value) => {
    if (typeof value === "number") return format.decimal(value);
    if (value !== null && typeof value === "object") return JSON.stringify(value);
    return String(value ?? "") || format.DASH;
  };
  return el("dl", { class: "facts features" },
    entries.map(([name, value]) => fact(name.replaceAll("_", " "), told(value))));
}

/** The reasons as a list. */
export function reasonList(reasons) {
  return el("ul", { class: "reasons" }, (reasons ?? []).map((reason) => el("li", {}, reason)));
}

function tokens(outcome) {
  if (!outcome || outcome.output_tokens === null) return format.DASH;
  const about = outcome.tokens_estimated ? "about " : "";
  const count = format.count;
  const parts = [`${count(outcome.input_tokens)} in`, `${count(outcome.output_tokens)} out`];
  if (outcome.cached_input_tokens) parts.push(`${count(outcome.cached_input_tokens)} cached`);
  if (outcome.cache_write_tokens) parts.push(`${count(outcome.cache_write_tokens)} cache write`);
  if (outcome.reasoning_tokens) parts.push(`${count(outcome.reasoning_tokens)} reasoning`);
  return about + parts.join(", ");
}

function attempts(decision) {
  const { attempts: list = [], error = null } = decision.outcome ?? {};
  if (!list.length && !error) return null;
  const item = (attempt) => el("li", {}, badge(attempt.deployment ?? attempt.target),
    el("span", {}, ` ${attempt.error}`),
    el("small", {}, ` ${attempt.fault ?? ""} after ${format.seconds(attempt.seconds)}`));
  const last = error && !list.some((attempt) => attempt.error === error)
    ? el("li", {}, error) : null;
  return section("What went wrong", el("ol", { class: "attempts" }, list.map(item), last));
}

function judgements(decision) {
  const list = decision.feedback ?? [];
  if (!list.length) return null;
  return section("Feedback", el("ul", { class: "plain" }, list.map((f) => el("li", {},
    el("b", {}, format.quality(f.quality)), ` ${format.full(f.time)}`,
    f.source ? ` by ${f.source}` : "", f.comment ? `: ${f.comment}` : ""))));
}

/** What other policy versions decided beside it, and what was spent beside its answer. */
function beside(decision) {
  const shadows = (decision.shadows ?? []).map((s) => el("li", {},
    `Version ${s.policy_version} would have chosen `, badge(s.target),
    ` at an expected ${format.money(s.cost_usd)}`));
  const overheads = (decision.overheads ?? []).map((o) => el("li", {},
    `${o.kind} by `, badge(o.target), ` for ${format.money(o.cost_usd)}: ${o.result}`));
  if (!shadows.length && !overheads.length) return null;
  return section("Beside it", el("ul", { class: "plain" }, shadows, overheads));
}

function went(decision) {
  const served = decision.outcome?.target ?? decision.target;
  const verb = decision.outcome?.status === "error" ? "No answer; asked " : "Went to ";
  const line = el("p", { class: "went" }, verb, badge(served));
  if (served !== decision.target) line.append("instead of ", badge(decision.target));
  return line;
}

const filterLink = (name, value, text) =>
  el("a", { href: address("decisions", null, { [name]: value }) }, text);

function facts(decision, names) {
  const outcome = decision.outcome;
  const key = names?.keys.find((known) => known.id === decision.key_id)?.name ?? decision.key_id;
  return el("dl", { class: "facts" },
    fact("Policy", decision.policy ?? format.DASH),
    fact("Router", decision.router ?? format.DASH),
    fact("Propensity", format.decimal(decision.propensity)),
    fact("Deciding took", format.seconds(decision.router_seconds)),
    fact("Cost", format.money(outcome?.cost_usd)),
    fact("At the baseline", format.money(outcome?.baseline_usd)),
    fact("Latency", format.seconds(outcome?.latency_s)),
    fact("First byte", format.seconds(outcome?.first_byte_s)),
    fact("Tokens", tokens(outcome)),
    fact("Quality", format.quality(decision.feedback?.at(-1)?.quality)),
    fact("Status", outcome
      ? `${outcome.status} (${outcome.http_status})` : "pending"),
    fact("Finished by", outcome?.finish_reason ?? format.DASH),
    decision.key_id ? fact("Key", filterLink("key", decision.key_id, key)) : null,
    decision.session
      ? fact("Session", filterLink("session", decision.session, decision.session)) : null,
    decision.experiment ? fact("Experiment", el("a", { href: address("experiments") },
      `${decision.experiment.name} (${decision.experiment.arm})`)) : null,
    fact("Version", decision.policy_version ?? format.DASH),
    fact("Time", format.full(decision.time)),
  );
}

function body(decision, names) {
  return [
    decision.text ? el("blockquote", {}, decision.text) : null,
    went(decision),
    facts(decision, names),
    section("Why", reasonList(decision.reasons)),
    attempts(decision),
    section("Candidates", candidatesTable(decision)),
    replaySection(decision, names?.policies ?? []),
    judgements(decision),
    beside(decision),
    section("What the router read", features(decision)),
    el("details", {}, el("summary", {}, "In words"),
      (decision.explanation ?? []).map((sentence) => el("p", { class: "words" }, sentence))),
    el("details", {}, el("summary", {}, "As JSON"),
      el("pre", { tabindex: 0 }, JSON.stringify(decision, null, 2))),
  ].filter(Boolean);
}

/**
 * The panel: `follow(id)` opens it, or closes it for null; `left(id)` is called when the reader
 * closes it (Escape, the button, a click beside it).
 */
export function startDetail(left) {
  const panel = byId("detail");
  let shown = null;
  let names = null;
  const listeners = new AbortController();
  const on = (node, kind, act) => node.addEventListener(kind, act, { signal: listeners.signal });

  const open = async (id) => {
    const content = byId("detail-body");
    setText(byId("detail-id"), id);
    content.replaceChildren(el("p", { class: "note", role: "status" }, "Loading…"));
    if (!panel.open) panel.showModal();
    try {
      const [decision, known] = await Promise.all([api.decision(id), names ?? api.names()]);
      names = known;
      if (shown === id) content.replaceChildren(...body(decision, known));
    } catch (error) {
      const why = error.status === 404 ? "The store has no decision of this id." : error.message;
      if (shown === id) {
        content.replaceChildren(el("p", { class: "problem", role: "alert" }, why));
      }
    }
  };

  on(byId("detail-close"), "click", () => panel.close());
  on(panel, "click", (event) => {
    if (event.target === panel) panel.close();
  });
  on(panel, "close", () => {
    if (shown === null) return;
    const closed = shown;
    shown = null;
    left(closed);
  });

  return {
    names: (known) => { names = known; },
    follow(id) {
      if (id === shown) return;
      shown = id;
      if (id !== null) open(id);
      else if (panel.open) panel.close();
    },
    close() {
      shown = null;
      listeners.abort();
      if (panel.open) panel.close();
    },
  };
}
