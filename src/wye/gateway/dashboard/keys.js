/** Virtual keys: what each may spend and has spent; making, changing and revoking them. */

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { byId, el, fact, reconcile, setText, show, svg } from "./dom.js";
import * as format from "./format.js";
import { openKeyForm } from "./key_form.js";
import { address } from "./router.js";

const WINDOWS = [["budget_day", "Today"], ["budget_month", "This month"], ["budget_total", "In total"]];

/** Spent and reserved of a limit, as a bar with its figures; figures alone where none is set. */
function budget(title, sums, limit) {
  const spent = sums?.spent_usd ?? 0;
  const reserved = sums?.reserved_usd ?? 0;
  const held = reserved > 0 ? `, ${format.money(reserved)} reserved` : "";
  const words = limit === null
    ? `${format.money(spent)}${held}, no limit`
    : `${format.money(spent)} of ${format.money(limit)}${held}`;
  const share = (value) => (limit > 0 ? Math.min(1, value / limit) * 100 : value > 0 ? 100 : 0);
  const [a, b] = [share(spent), Math.min(100 - share(spent), share(reserved))];
  const full = limit !== null && spent + reserved >= 0.9 * limit;
  const bar = limit === null ? null
    : svg("svg", { class: `budget${full ? " full" : ""}`, height: 8, role: "img",
      "aria-label": `${title}: ${format.percent(limit > 0 ? spent / limit : 1)} spent` },
    svg("rect", { class: "track", width: "100%", height: 8, rx: 2 }),
    svg("rect", { class: "spent", width: `${a}%`, height: 8, rx: 2 }),
    svg("rect", { class: "reserved", x: `${a}%`, width: `${b}%`, height: 8 }));
  return fact(title, words, bar);
}

function limitWords(limits) {
  return [
    limits.per_request === null ? null : `${format.money(limits.per_request)} a request`,
    limits.per_session === null ? null : `${format.money(limits.per_session)} a session`,
    limits.requests_per_minute === null ? null
      : `${format.plural(limits.requests_per_minute, "request")} a minute`,
    limits.tokens_per_minute === null ? null
      : `${format.plural(limits.tokens_per_minute, "token")} a minute`,
    limits.targets ? `only ${limits.targets.join(", ")}` : null,
    limits.policy ? `policy ${limits.policy}` : null,
    limits.expires === null ? null : `until ${format.full(limits.expires)}`,
  ].filter(Boolean);
}

function buttons(key, names) {
  if (key.revoked !== null) return null;
  const change = el("button", { type: "button", class: "small" }, "Change");
  change.addEventListener("click", () => openKeyForm(key, names()));
  const revoke = el("button", { type: "button", class: "small danger" }, "Revoke");
  revoke.addEventListener("click", () => confirm({
    title: `Revoke ${key.name}?`,
    text: `Requests with ${key.prefix}… are refused from then on, for good. Its spend stays told.`,
    verb: "Revoke",
    act: () => api.revokeKey(key.id),
  }));
  return el("div", { class: "buttons" }, change, revoke);
}

function draw(card, key, closed, names) {
  // Windows carry their date: the first is the day, the second the month.
  const sums = Object.values(key.spent);
  const words = limitWords(key.limits);
  card.className = `card key ${key.state}`;
  card.replaceChildren(
    el("header", {}, el("h2", {}, key.name), el("code", {}, `${key.prefix}…`),
      key.state === "good" ? null : el("span", { class: "state", "data-state": "open" }, key.state)),
    el("dl", { class: "facts budgets" },
      WINDOWS.map(([name, title], k) => budget(title, sums[k], key.limits[name]))),
    el("p", { class: "note" }, words.length ? words.join(" · ") : "No further limits"),
    el("p", { class: "note" }, `Made ${format.full(key.created)}`,
      key.revoked === null ? "" : `, revoked ${format.full(key.revoked)}`, " · ",
      el("a", { href: address("decisions", null, { key: key.id }) }, "Its decisions")),
    ...[closed ? null : buttons(key, names)].filter(Boolean),
  );
}

/** The page at `#/keys`. */
export function keysPage() {
  const last = new Map();
  let names = { targets: [], policies: [] };
  byId("key-new").addEventListener("click", () => openKeyForm(null, names));
  byId("key-close").onclick = () => byId("key-dialog").close();
  // A new key's secret must not stay in the page when its one look is over.
  byId("key-dialog").onclose = () => byId("key-body").replaceChildren();
  return {
    async refresh() {
      const [found, known] = await Promise.all([api.keys(), api.names()]);
      names = known;
      show(byId("key-new"), !found.closed);
      show(byId("keys-closed"), Boolean(found.closed));
      setText(byId("keys-closed"), found.closed ?? "");
      show(byId("keys-open"), !found.required && found.keys.length === 0);
      show(byId("keys-empty"), found.keys.length === 0);
      const order = { good: 0, expired: 1, revoked: 2 };
      const keys = found.keys.toSorted((a, b) =>
        order[a.state] - order[b.state] || b.created - a.created);
      reconcile(byId("keys"), keys, (k) => k.id, () => el("section"), (card, key) => {
        card.setAttribute("aria-label", `Key ${key.name}`);
        const text = JSON.stringify([key, found.closed]);
        if (last.get(key.id) === text) return;
        last.set(key.id, text);
        draw(card, key, found.closed, () => names);
      });
    },
    close() {
      byId("key-dialog").close();
    },
  };
}
