/** What would be chosen for the prompt that is being written; nothing is sent to any target. */

import * as api from "./api.js";
import { candidatesTable } from "./candidates.js";
import { reasonList } from "./detail.js";
import { byId, el, show } from "./dom.js";
import { badge } from "./targets.js";

const PAUSE_MS = 350;

let timer = null;
let running = null;

function told(found) {
  const chances = found.propensity < 1
    ? "The policy draws: it may choose otherwise when you ask; the chances are below."
    : found.stateful
      ? "It keeps account of its choices: traffic until you ask may change it." : null;
  return [
    found.target
      ? el("p", { class: "went" }, "Would go to ", badge(found.target))
      : el("p", { class: "went" }, "No target could take it."),
    reasonList(found.reasons),
    candidatesTable(found),
    chances ? el("p", { class: "note" }, chances) : null,
  ].filter(Boolean);
}

function showEmpty() {
  show(byId("choice"), false);
  show(byId("choice-empty"), true);
}

async function look(model, prompt) {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  const holder = byId("choice");
  holder.classList.add("waiting");
  try {
    const found = await api.choose(model, prompt, mine.signal);
    if (mine === running) holder.replaceChildren(...told(found));
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    holder.replaceChildren(el("p", { class: "problem", role: "alert" },
      `The choice cannot be told: ${error.message}`));
  }
  holder.classList.remove("waiting");
  show(holder, true);
  show(byId("choice-empty"), false);
}

/** Look at the choice for a prompt, once the writing pauses. */
export function previewChoice(model, prompt) {
  stopPreview();
  if (!prompt.trim()) {
    showEmpty();
    return;
  }
  timer = setTimeout(() => look(model, prompt.trim()), PAUSE_MS);
}

export function stopPreview() {
  clearTimeout(timer);
  running?.abort();
  running = null;
}
