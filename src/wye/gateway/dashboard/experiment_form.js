/** The form that begins an experiment. */

import * as api from "./api.js";
import { byId, el, setText } from "./dom.js";

const KINDS = [
  ["shadow", "Shadow: decides beside the present one, and is not followed", "1"],
  ["canary", "Canary: decides a small share; stopped by itself when it harms", "0.05"],
  ["ab", "A/B: decides a part; ends as soon as one is better", "0.5"],
];

function versionSelect(versions) {
  return el("label", {}, "Version", el("select", { name: "version", required: true },
    versions.map((version) => el("option", { value: version.id },
      `${version.id} (${version.note || version.origin})`))));
}

function kindSelect() {
  return el("label", {}, "Kind", el("select", { name: "kind", required: true },
    KINDS.map(([kind, words]) => el("option", { value: kind }, words))));
}

function wanted(form) {
  const { name, kind, version, share, by } = form.elements;
  return {
    name: name.value, kind: kind.value, version: version.value, by: by.value,
    share: share.value === "" ? null : Number(share.value),
  };
}

/** Open the form; `versions` are those that may be tried. */
export function openExperimentForm(versions) {
  const dialog = byId("experiment-dialog");
  const problem = el("p", { class: "problem", role: "alert" });
  const send = el("button", { type: "submit", class: "primary" }, "Start");
  const share = el("input", { type: "number", name: "share", min: 0, max: 1, step: "any",
    inputmode: "decimal", placeholder: KINDS[0][2] });
  const form = el("form", { class: "form" },
    el("label", {}, "Name", el("input", { name: "name", required: true, maxlength: 100,
      autocomplete: "off", placeholder: "what is to be learned" })),
    kindSelect(), versionSelect(versions),
    el("div", { class: "grid" },
      el("label", {}, "Share of the units", share),
      el("label", {}, "A unit is a", el("select", { name: "by" },
        el("option", { value: "session" }, "session"), el("option", { value: "key" }, "key")))),
    problem, el("div", { class: "buttons" }, send));
  form.elements.kind.addEventListener("change", () => {
    share.placeholder = KINDS.find(([kind]) => kind === form.elements.kind.value)[2];
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(problem, "");
    send.disabled = true;
    try {
      await api.startExperiment(wanted(form));
      dialog.close();
      document.dispatchEvent(new Event("wye:changed"));
    } catch (error) {
      setText(problem, error.message);
    } finally {
      send.disabled = false;
    }
  });
  byId("experiment-body").replaceChildren(form);
  dialog.showModal();
  form.elements.name.focus();
}
