/** Policy versions and the experiments between them. */

import * as api from "./api.js";
import { confirm } from "./confirm.js";
import { byId, el, fact, reconcile, setText, show } from "./dom.js";
import { openExperimentForm } from "./experiment_form.js";
import * as format from "./format.js";

const KINDS = { shadow: "shadow: decides, does not act", canary: "canary by share", ab: "A/B" };
const ARMS = [["control", "Control"], ["candidate", "Candidate"]];
/** States whose candidate may be promoted here: none that was found worse than what decides. */
const PROMOTABLE = new Set(["running", "stopped", "better"]);
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

function askStop(experiment) {
  const decides = experiment.control ?? "what wye.toml says";
  confirm({
    title: `Stop ${experiment.name}?`,
    text: experiment.kind === "shadow"
      ? "It decides beside the present version no longer. What it decided stays told."
      : `${decides} decides every request again, at every gateway of this store, within seconds. ` +
        "What the arms gave stays told.",
    verb: "Stop",
    act: () => api.stopExperiment(experiment.id),
  });
}

function askPromote(experiment) {
  const ended = experiment.state === "running" ? "The experiment ends: its" : "Its";
  confirm({
    title: `Promote ${experiment.name}?`,
    text: `${ended} candidate ${experiment.version} decides every request, at every gateway of ` +
      "this store, within seconds. Roll back takes up again what decides at present.",
    verb: "Promote",
    act: () => api.promoteExperiment(experiment.id),
  });
}

function actButton(name, ask, { danger = false } = {}) {
  const kind = danger ? "small danger" : "small";
  const button = el("button", { type: "button", class: kind, "data-act": name }, name);
  button.addEventListener("click", ask);
  return button;
}

/** What can be done with an experiment; nothing where its candidate decides or did harm. */
function actions(experiment, present) {
  const promotable = PROMOTABLE.has(experiment.state) && !present.has(experiment.version);
  const buttons = [
    experiment.state === "running"
      ? actButton("Stop", () => askStop(experiment), { danger: true }) : null,
    promotable ? actButton("Promote", () => askPromote(experiment)) : null,
  ].filter(Boolean);
  return buttons.length ? [el("div", { class: "buttons" }, buttons)] : [];
}

function draw(card, experiment, closed, present) {
  const shadow = experiment.shadow;
  const focused = document.activeElement;
  const held = card.contains(focused) ? focused.dataset.act : null;
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
    ...(closed ? [] : actions(experiment, present)),
  );
  if (held) (card.querySelector(`[data-act="${held}"]`) ?? card.querySelector("[data-act]"))?.focus();
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

function showPresent({ present, uses = [], experiments = [], closed }) {
  const from = present.source === "store" ? "put to use from the store" : "what wye.toml says";
  const since = present.since ? ` since ${format.full(present.since)}` : "";
  setText(byId("present"), present.error
    ? `The version that should decide does not: ${present.error}`
    : `Version ${present.version} decides${since}: ${from}.`);
  byId("present").classList.toggle("bad", Boolean(present.error));
  const compared = experiments.some((one) => one.state === "running" && one.kind !== "shadow");
  show(byId("rollback"), !closed && (uses.length > 0 || compared));
  show(byId("experiments-closed"), Boolean(closed));
  setText(byId("experiments-closed"), closed ?? "");
}

function askRollback() {
  confirm({
    title: "Roll back?",
    text: "A canary or A/B that runs is ended; where none runs, the policies that decided before " +
      "the present ones decide again. So it is at every gateway of this store, within seconds. " +
      "Streams that run are not cut.",
    verb: "Roll back",
    act: api.rollback,
  });
}

/** The page at `#/experiments`. */
export function experimentsPage() {
  const last = new Map();
  let others = [];
  byId("rollback").addEventListener("click", askRollback);
  byId("experiment-new").addEventListener("click", () => openExperimentForm(others));
  byId("experiment-close").onclick = () => byId("experiment-dialog").close();
  return {
    async refresh() {
      const found = await api.experiments();
      showPresent(found);
      const versions = found.versions ?? [];
      show(byId("versions-card"), versions.length > 0);
      others = versions.filter((version) => version.state !== "present");
      show(byId("experiment-new"), !found.closed && others.length > 0);
      byId("versions-head").replaceChildren(el("tr", {},
        ["Version", "State", "Policies", "Router", "Made"]
          .map((name) => el("th", { scope: "col" }, name))));
      byId("versions").replaceChildren(...versions.map(versionRow));
      const experiments = found.experiments ?? [];
      const present = new Set(versions.filter((v) => v.state === "present").map((v) => v.id));
      show(byId("experiments-empty"), experiments.length === 0);
      setText(byId("experiments-empty"), "No experiment yet. A shadow decides beside the present " +
        "version and does not act; a canary acts on a share of the traffic; an A/B test stops when " +
        `its figures allow.${others.length ? "" : " wye policy add makes a version to try."}`);
      reconcile(byId("experiments"), experiments, (e) => e.id,
        (e) => el("section", { class: "card", "aria-label": `Experiment ${e.name}` }),
        (card, experiment) => {
          const text = JSON.stringify([experiment, found.closed, [...present]]);
          if (last.get(experiment.id) === text) return;
          last.set(experiment.id, text);
          draw(card, experiment, found.closed, present);
        });
    },
    close() {
      byId("experiment-dialog").close();
    },
  };
}
