/** Each target in full: health, load, what it came to, and what it costs by whose word. */

import * as api from "./api.js";
import { byId, el, fact, reconcile, show } from "./dom.js";
import * as format from "./format.js";
import { address } from "./router.js";
import { badge, stateBadge } from "./targets.js";

function priceText(prices) {
  if (!prices) return "unknown: set price_in_per_mtok and price_out_per_mtok in wye.toml";
  const extra = prices.cached_input === null ? "" : `, ${format.money(prices.cached_input)} cached`;
  return `${format.money(prices.input)} in, ${format.money(prices.output)} out${extra} ` +
    "per million tokens";
}

/** A web address of the price table as a link; anything else as text. */
function source(prices) {
  if (!prices) return null;
  if (!prices.date) return el("small", {}, `from ${prices.origin}`);
  const safe = /^https:\/\//.test(prices.source);
  return el("small", {}, `wye's price table of ${format.day(`${prices.date}T12:00:00`)}, `,
    safe ? el("a", { href: prices.source, rel: "noreferrer" }, "the page to hold it against")
      : prices.source);
}

function health(target) {
  const word = target.in_flight ? format.plural(target.in_flight, "request") : "nothing";
  return el("p", { class: "health" }, stateBadge(target.state),
    el("span", { class: "note" }, target.closed ?? `${word} in flight`));
}

function deployments(target) {
  if (target.deployments.length < 2) return null;
  return el("div", { class: "scroll", tabindex: 0, role: "region",
    "aria-label": `Deployments of ${target.name}` },
    el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Deployment"),
        el("th", { scope: "col" }, "State"),
        ["Weight", "In flight"].map((n) => el("th", { scope: "col", class: "number" }, n)))),
      el("tbody", {}, target.deployments.map((d) => el("tr", {},
        el("th", { scope: "row" }, d.name),
        el("td", {}, stateBadge(d.state),
          d.retry_after_s > 0 ? el("small", {}, ` for ${format.seconds(d.retry_after_s)}`) : null),
        el("td", { class: "number" }, format.decimal(d.weight)),
        el("td", { class: "number" }, format.count(d.in_flight)))))));
}

function about(target) {
  const kind = target.host ? `${target.model} at ${target.host}` : `${target.model} (${target.kind})`;
  return [
    target.description ? el("p", {}, target.description) : null,
    el("p", { class: "note" }, [kind, `speaks ${target.speaks.join(", ")}`,
      target.context ? `${format.count(target.context)} tokens of context` : null,
      target.tags.length ? target.tags.join(", ") : null].filter(Boolean).join(" · ")),
  ];
}

function draw(card, target) {
  const error = target.errors + target.requests
    ? format.percent(target.errors / (target.errors + target.requests)) : format.DASH;
  const judged = target.judged
    ? `${format.quality(target.quality)} of ${format.count(target.judged)} rated`
    : target.prior_quality === null ? "not rated yet"
      : `${format.quality(target.prior_quality)} assumed`;
  card.replaceChildren(
    el("header", {}, el("h2", {}, badge(target.name)), health(target)),
    ...about(target).filter(Boolean),
    el("dl", { class: "facts even" },
      fact("Requests", `${format.count(target.requests)} (${format.percent(target.share)})`),
      fact("Spend", format.money(target.spend_usd)),
      fact("Errors", error),
      fact("Latency", `${format.milliseconds(target.latency_ms_p50)} median`,
        el("small", {}, `95% under ${format.milliseconds(target.latency_ms_p95)}`)),
      fact("Quality", judged),
      fact("Price", priceText(target.prices), source(target.prices)),
    ),
    ...[deployments(target)].filter(Boolean),
    el("p", {}, el("a", { href: address("decisions", null, { target: target.name }) },
      "Its decisions")),
  );
}

/** The page at `#/targets`. */
export function targetsPage() {
  const last = new Map();
  return {
    async refresh() {
      const { targets } = await api.targets();
      show(byId("targets-empty"), targets.length === 0);
      reconcile(byId("targets"), targets, (t) => t.name,
        (t) => el("section", { class: "card target", "aria-label": t.name }),
        (card, target) => {
          const text = JSON.stringify(target);
          if (last.get(target.name) === text) return;
          last.set(target.name, text);
          draw(card, target);
        });
    },
  };
}
