/** What another policy would have chosen for a decision, as the gateway's own code says. */

import * as api from "./api.js";
import { el, section } from "./dom.js";
import * as format from "./format.js";
import { badge } from "./targets.js";

/** A difference of an expected figure, in words. */
function gap(name, before, after, tell) {
  if (!Number.isFinite(before) || !Number.isFinite(after)) return null;
  if (before === null || after === null) return null;
  const by = after - before;
  if (Math.abs(by) < 1e-12) return `the same ${name}`;
  return `${tell(Math.abs(by))} ${by > 0 ? "more" : "less"} ${name}`;
}

function comparison(found) {
  const of = (target) => found.candidates.find((c) => c.target === target);
  const [before, after] = [of(found.logged_target), of(found.target)];
  if (!before || !after || found.same) return null;
  const gaps = [
    gap("quality", before.quality, after.quality, format.quality),
    gap("cost", before.cost_usd, after.cost_usd, format.money),
    gap("latency", before.latency_s, after.latency_s, format.seconds),
  ].filter(Boolean);
  return gaps.length ? el("p", {}, `Expected: ${gaps.join(", ")}.`) : null;
}

function told(found) {
  const verdict = !found.target
    ? el("p", { class: "went" }, "It would have chosen nothing.")
    : el("p", { class: "went" }, found.same ? "The same: " : "It would have gone to ",
      badge(found.target));
  const notes = [
    found.drawn ? "The policy draws; this is one draw, the chances are below." : null,
    found.stateful ? "It keeps account of its choices; this is by its account of now." : null,
  ].filter(Boolean);
  return [
    verdict,
    comparison(found),
    el("ul", { class: "reasons" }, found.reasons.map((reason) => el("li", {}, reason))),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Replayed candidates" },
      el("table", { class: "candidates" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Target"),
          ["Score", "Chance"].map((name) => el("th", { scope: "col", class: "number" }, name)))),
        el("tbody", {}, found.candidates.map((c) =>
          el("tr", { class: c.target === found.target ? "chosen" : c.allowed ? null : "barred" },
            el("th", { scope: "row" }, badge(c.target)),
            el("td", { class: "number" }, format.decimal(c.score)),
            el("td", { class: "number" }, format.percent(c.probability))))))),
    notes.length ? el("p", { class: "note" }, notes.join(" ")) : null,
  ].filter(Boolean);
}

/** The part of a decision's panel that asks; nothing where no other policy is configured. */
export function replaySection(decision, policies) {
  if (!policies.length) return null;
  const select = el("select", { "aria-label": "Policy to replay under" },
    el("option", { value: "" }, "Choose a policy"),
    policies.map((name) => el("option", { value: name }, name)));
  const holder = el("div", { class: "replayed", "aria-live": "polite" });
  select.addEventListener("change", async () => {
    const policy = select.value;
    if (!policy) {
      holder.replaceChildren();
      return;
    }
    holder.replaceChildren(el("p", { class: "note" }, "Replaying…"));
    try {
      const found = await api.replay(decision.id, policy);
      if (select.value === policy) holder.replaceChildren(...told(found));
    } catch (error) {
      holder.replaceChildren(el("p", { class: "problem", role: "alert" }, error.message));
    }
  });
  return section("Under another policy", el("div", { class: "inline" }, select,
    el("span", { class: "note" }, "on what was known then")), holder);
}
