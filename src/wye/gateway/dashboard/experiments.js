/** Policy versions and the experiments between them. */

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { byId, el, fact, reconcile, setText, show } from "./dom.js";
import * as format from "./format.js";

const KINDS = { shadow: "shadow: decides, does not act", canary: "canary by share", ab: "A/B" };
const ARMS = [["control", "Control"], ["candidate", "Candidate"]];
const METRICS = {
  reward: [(v) => format.decimal(v), "reward"],
  cost: [(v) => format.money(v), "cost"],
  errors: [(v) => format.percent(v), "errors"],
};

function armsTable(experiment) {
  const head = ["Requests", "Judged", "Reward", "Cost", "Errors"];
  const row = ([name, title]) => {
    const arm = experiment.arms?.[name] ?? {};
    return el("tr", {}, el("th", { scope: "row" }, title),
      [format.count(arm.requests), format.count(arm.judged), format.decimal(arm.reward),
        format.money(arm.cost_usd), format.percent(arm.errors)]
        .map((text) => el("td", { class: "number" }, text)));
  };
  return el("div", { class: "scroll", tabindex: 0, role: "region",
    "aria-label": `Arms of ${experiment.name}` },
  el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Arm"),
      head.map((name) => el("th", { scope: "col", class: "number" }, name)))),
    el("tbody", {}, ARMS.map(row))));
}

function differences(experiment) {
  const list = (experiment.differences ?? []).filter((d) => d.estimate !== null);
  return list.map((d) => {
    const [tell, name] = METRICS[d.metric] ?? [format.decimal, d.metric];
    return fact(`Candidate less control, ${name}`, tell(d.estimate),
      el("small", {}, `${tell(d.low)} to ${tell(d.high)}, p ${format.decimal(d.p, 2)}`));
  });
}

function draw(card, experiment) {
  const shadow = experiment.shadow;
  card.replaceChildren(
    el("header", {}, el("h2", {}, experiment.name),
      el("span", { class: "state", "data-state": experiment.state === "harmful" ? "open"
        : experiment.state === "running" ? "half_open" : "closed" }, experiment.state)),
    el("p", {}, experiment.words ?? ""),
    el("dl", { class: "facts" },
      fact("Kind", KINDS[experiment.kind] ?? experiment.kind),
      fact("Share", format.percent(experiment.share)),
      fact("By", experiment.by ?? format.DASH),
      fact("Candidate", el("code", {}, experiment.version)),
      fact("Control", el("code", {}, experiment.control ?? "the present version")),
      fact("Started", format.full(experiment.started)),
      experiment.ended ? fact("Ended", format.full(experiment.ended)) : null,
      shadow ? fact("Same choice", format.percent(shadow.same),
        el("small", {}, `of ${format.plural(shadow.decisions, "decision")}`)) : null,
      ...differences(experiment)),
    ...(experiment.kind === "shadow" ? [] : [armsTable(experiment)]),
    ...(experiment.reason ? [el("p", { class: "note" }, experiment.reason)] : []),
  );
}

function versionRow(version) {
  return el("tr", { class: version.state === "present" ? "chosen" : null },
    el("th", { scope: "row" }, el("code", {}, version.id),
      el("small", {}, version.note || version.origin)),
    el("td", {}, version.state),
    el("td", {}, Object.keys(version.policies ?? {}).join(", ")),
    el("td", {}, version.router ?? "priors alone"),
    el("td", {}, format.full(version.created)));
}

function showPresent({ present, uses = [] }) {
  const from = present.source === "store" ? "put to use from the store" : "what wye.toml says";
  const since = present.since ? ` since ${format.full(present.since)}` : "";
  setText(byId("present"), present.error
    ? `The version that should decide does not: ${present.error}`
    : `Version ${present.version} decides${since}: ${from}.`);
  byId("present").classList.toggle("bad", Boolean(present.error));
  show(byId("rollback"), uses.length > 0);
}

function askRollback() {
  confirm({
    title: "Roll back?",
    text: "The policies that decided before the present ones decide again, at every gateway of " +
      "this store, within seconds. Streams that run are not cut.",
    verb: "Roll back",
    act: api.rollback,
  });
}

/** The page at `#/experiments`. */
export function experimentsPage() {
  const last = new Map();
  byId("rollback").addEventListener("click", askRollback);
  return {
    async refresh() {
      const found = await api.experiments();
      showPresent(found);
      const versions = found.versions ?? [];
      show(byId("versions-card"), versions.length > 0);
      byId("versions-head").replaceChildren(el("tr", {},
        ["Version", "State", "Policies", "Router", "Made"]
          .map((name) => el("th", { scope: "col" }, name))));
      byId("versions").replaceChildren(...versions.map(versionRow));
      const experiments = found.experiments ?? [];
      show(byId("experiments-empty"), experiments.length === 0);
      setText(byId("experiments-empty"), "No experiment yet. A shadow decides beside the present " +
        "version and does not act; a canary acts on a share of the traffic; an A/B test stops when " +
        "its figures allow.");
      reconcile(byId("experiments"), experiments, (e) => e.id,
        (e) => el("section", { class: "card", "aria-label": `Experiment ${e.name}` }),
        (card, experiment) => {
          const text = JSON.stringify(experiment);
          if (last.get(experiment.id) === text) return;
          last.set(experiment.id, text);
          draw(card, experiment);
        });
    },
  };
}
