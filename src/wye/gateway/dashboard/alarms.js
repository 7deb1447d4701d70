/** What the watch has found: alarms, and how each monitor stands. */

import * as api from "./api.js";
import { byId, el, reconcile, setText, show } from "./dom.js";
import * as format from "./format.js";

const MOST = 100;

async function acknowledge(alarm, button) {
  button.disabled = true;
  try {
    await api.acknowledge(alarm.id);
    document.dispatchEvent(new Event("wye:changed"));
  } catch (error) {
    button.disabled = false;
    button.after(el("span", { class: "problem", role: "alert" }, `Not noted: ${error.message}`));
  }
}

/** One alarm; `whole` with its figures and a button to take note of it. */
export function alarmItem(alarm, whole = true) {
  const open = alarm.acknowledged === null || alarm.acknowledged === undefined;
  const item = el("li", { class: `alarm ${open ? "open" : "seen"}${whole ? " card" : ""}` },
    el("p", { class: "head" },
      el("b", {}, String(alarm.kind).replaceAll("_", " ")),
      alarm.subject ? el("span", {}, alarm.subject) : null,
      el("time", { title: format.full(alarm.time) }, format.ago(alarm.time))),
    el("p", {}, alarm.message),
  );
  if (!whole) return item;
  const figures = Object.entries(alarm.figures ?? {});
  if (figures.length) {
    item.append(el("p", { class: "note" }, figures.map(([name, value]) =>
      `${name.replaceAll("_", " ")} ${typeof value === "number" ? format.decimal(value) : value}`)
      .join(" · ")));
  }
  if (open) {
    const button = el("button", { type: "button", class: "small" }, "Take note");
    button.addEventListener("click", () => acknowledge(alarm, button));
    item.append(el("p", { class: "buttons" }, button));
  } else {
    const by = alarm.acknowledged_by ? ` by ${alarm.acknowledged_by}` : "";
    const note = alarm.note ? `: ${alarm.note}` : "";
    item.append(el("p", { class: "note" }, `Noted ${format.ago(alarm.acknowledged)}${by}${note}`));
  }
  return item;
}

function monitorRow(monitor) {
  return el("tr", {},
    el("th", { scope: "row" }, String(monitor.kind ?? monitor.name).replaceAll("_", " "),
      monitor.subject ? el("small", {}, monitor.subject) : null),
    el("td", {}, monitor.words ?? monitor.state ?? format.DASH),
    el("td", { class: "number" }, format.decimal(monitor.evidence)),
    el("td", { class: "number" }, format.count(monitor.seen)));
}

/** The page at `#/alarms`. */
export function alarmsPage() {
  byId("monitors-head").replaceChildren(el("tr", {},
    ["Monitor", "In words"].map((name) => el("th", { scope: "col" }, name)),
    ["Evidence", "Seen"].map((name) => el("th", { scope: "col", class: "number" }, name))));
  return {
    async refresh() {
      const [found, calibration] = await Promise.all([api.alarms(MOST), api.calibration()]);
      reconcile(byId("alarms"), found.data, (a) => `${a.id} ${a.acknowledged}`, alarmItem, () => {});
      show(byId("alarms-empty"), found.data.length === 0);
      setText(byId("calibration"), calibration.words ?? "");
      const monitors = found.monitors ?? [];
      show(byId("monitors-card"), monitors.length > 0);
      byId("monitors").replaceChildren(...monitors.map(monitorRow));
    },
  };
}
