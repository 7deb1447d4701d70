/** The decisions: filtered, page by page, and one opened beside them. `#/decisions/ID?filters`. */

import * as api from "./api.js";
import { decisionTable } from "./decision_rows.js";
import { startDetail } from "./detail.js";
import { byId, el, setText, show, whenChanged } from "./dom.js";
import * as format from "./format.js";
import { address, here } from "./router.js";

const PAGE = 25;
const FILTERS = [
  "text", "target", "policy", "status", "key", "surface", "session", "since", "until",
];
const MOMENTS = ["since", "until"];
const STATUSES = ["ok", "error", "cancelled", "pending"];

const field = (name) => byId("filters").elements[name];

function fill(name, pairs) {
  const select = field(name);
  const before = select.value || select.dataset.wanted || "";
  const known = pairs.some(([value]) => value === before);
  const more = before && !known ? [[before, before]] : [];
  select.replaceChildren(el("option", { value: "" }, "Any"),
    ...[...pairs, ...more].map(([value, text]) => el("option", { value }, text)));
  select.value = before;
}

function fillAll(names) {
  const plain = (list) => list.map((name) => [name, name]);
  fill("target", plain(names.targets));
  fill("policy", plain([...names.policies, "direct"]));
  fill("status", plain(STATUSES));
  fill("key", names.keys.map((key) => [key.id, key.name]));
  fill("surface", plain(names.surfaces));
}

/** The form's moment as seconds since 1970, and back, in the reader's own time. */
const seconds = (text) => (text ? new Date(text).getTime() / 1000 : null);

function local(moment) {
  const date = new Date(moment * 1000);
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}

/** What the address asks for, as parameters of the API. */
function wantedOf(query) {
  return Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]).filter(([, v]) => v));
}

function writeForm(wanted) {
  for (const name of FILTERS) {
    const value = wanted[name] ?? "";
    const control = field(name);
    if (MOMENTS.includes(name)) control.value = Number(value) ? local(Number(value)) : "";
    else {
      control.dataset.wanted = value;
      control.value = value;
    }
  }
}

function readForm() {
  return Object.fromEntries(FILTERS.map((name) =>
    [name, MOMENTS.includes(name) ? seconds(field(name).value) : field(name).value.trim()]));
}

/** The page; what it found stays while a decision is open beside it. */
export function decisionsPage(place) {
  const showRows = decisionTable();
  const showChoices = whenChanged(fillAll);
  const detail = startDetail((closed) => {
    // Who has gone elsewhere by now stays there.
    const { name, rest } = here();
    if (name === "decisions" && rest === closed) location.hash = address("decisions", null, wanted);
  });
  let wanted = wantedOf(place.query);
  let known = [];
  let next = null;
  let reached = null;
  let pages = 1;
  let asked = 0;

  const draw = () => {
    showRows(known);
    show(byId("decisions-table"), known.length > 0);
    show(byId("decisions-empty"), known.length === 0);
    show(byId("older"), next !== null);
    const filtered = Object.keys(wanted).length > 0;
    const none = filtered
      ? "No decision passes these filters."
      : "Each request appears here with the reasons of its choice.";
    setText(byId("decisions-empty"), next === null ? none : "Nothing found yet.");
    setText(byId("older"), known.length < PAGE * pages ? "Search older ones" : "Show older");
    const back = next === null ? "" : ` so far, looked back to ${format.full(reached)}`;
    setText(byId("found"), filtered ? `${format.plural(known.length, "decision")}${back}` : "");
    show(byId("found"), filtered);
  };

  const older = async () => {
    const button = byId("older");
    button.disabled = true;
    setText(byId("older-problem"), "");
    const mine = asked;
    try {
      const page = await api.decisions({ ...wanted, limit: PAGE, before: next });
      if (mine !== asked) return;
      const seen = new Set(known.map((d) => d.id));
      known = [...known, ...page.data.filter((d) => !seen.has(d.id))];
      ({ next, reached } = page);
      pages += 1;
      draw();
    } catch (error) {
      setText(byId("older-problem"), `Could not load more: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  };

  writeForm(wanted);
  byId("older").addEventListener("click", older);
  byId("filters").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address("decisions", null, readForm());
  });
  byId("clear").addEventListener("click", () => {
    location.hash = address("decisions");
  });
  detail.follow(place.rest);

  return {
    async refresh() {
      const mine = asked;
      const [page, names] = await Promise.all([
        api.decisions({ ...wanted, limit: PAGE }), api.names(),
      ]);
      showChoices(names);
      detail.names(names);
      // The reader chose other filters meanwhile.
      if (mine !== asked) {
        await this.refresh();
        return;
      }
      const fresh = new Set(page.data.map((d) => d.id));
      if (pages === 1 || !known.some((d) => fresh.has(d.id))) {
        // The first page alone, or more came between two looks than it holds: no gap is left.
        known = page.data;
        ({ next, reached } = page);
        pages = 1;
      } else known = [...page.data, ...known.filter((d) => !fresh.has(d.id))];
      draw();
    },
    follow(to) {
      const before = JSON.stringify(wanted);
      const now = wantedOf(to.query);
      if (JSON.stringify(now) !== before) {
        wanted = now;
        asked += 1;
        known = [];
        pages = 1;
        writeForm(wanted);
        document.dispatchEvent(new Event("wye:changed"));
      } else showRows(known);
      detail.follow(to.rest);
    },
    close: detail.close,
  };
}
