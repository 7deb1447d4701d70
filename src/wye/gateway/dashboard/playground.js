/** A box to try a prompt: the choice before it is sent, then the answer and who gave it. */

import { givenKey, keepKey, keyNeeded } from "./access.js";
import * as api from "./api.js";
import { previewChoice, stopPreview } from "./choice.js";
import { reasonList } from "./detail.js";
import { byId, el, reconcile, setText, show, svg, whenChanged } from "./dom.js";
import * as format from "./format.js";
import { decisionAddress } from "./router.js";
import { badge } from "./targets.js";

const SHOWN = 5;
const THUMB =
  "M2.5 9h3v8h-3z M5.5 9.5l3.8-6.7c1.5 0 2.3 1 2 2.5L10.7 8h5.2a1.6 1.6 0 0 1 1.6 2" +
  "l-1.5 5.6a1.9 1.9 0 0 1-1.8 1.4H5.5z";

let prompts = [];
let offset = 0;
let running = null;

/** Models to ask: the router under each policy, and each target straight. */
function drawModels({ policies, default_policy: standard, targets }) {
  const select = byId("model");
  const before = select.value;
  const routed = policies.map((name) =>
    name === standard
      ? el("option", { value: "wye" }, `${name} (default)`)
      : el("option", { value: `wye/${name}` }, name));
  select.replaceChildren(
    el("optgroup", { label: "Routed by policy" }, routed),
    el("optgroup", { label: "Straight to a target" },
      targets.map((name) => el("option", { value: name }, name))),
  );
  if ([...select.options].some((option) => option.value === before)) select.value = before;
  else select.value = "wye";
}

function suggest() {
  const some = Array.from({ length: Math.min(SHOWN, prompts.length) }, (_, k) =>
    prompts[(offset + k) % prompts.length]);
  reconcile(byId("suggestions"), some, (p) => p.text,
    (p) => el("li", {}, el("button", { type: "button", class: "chip", title: p.text,
      click: () => take(p) }, p.kind ? el("b", {}, p.kind) : null, el("span", {}, p.text))),
    () => {});
  show(byId("suggested"), prompts.length > 0);
  show(byId("more-prompts"), prompts.length > SHOWN);
}

function take(prompt) {
  byId("prompt").value = prompt.text;
  setText(byId("prompt-why"), prompt.why ?? "");
  show(byId("prompt-why"), Boolean(prompt.why));
  byId("prompt").focus();
  preview();
}

const preview = () => previewChoice(byId("model").value || "wye", byId("prompt").value);

/** What is shown of one answer; a new one is built for each question. */
function answerView() {
  const text = el("div", { class: "text", "aria-live": "polite", "aria-busy": "true" });
  const head = el("p", { class: "by" }, "Deciding…");
  const why = el("div", { class: "why" });
  byId("answer").replaceChildren(head, text, why);
  show(byId("answer-card"), true);
  return { text, head, why };
}

function thumb(direction) {
  return svg("svg", { class: direction, width: 18, height: 18, viewBox: "0 0 20 20",
    "aria-hidden": "true" }, svg("path", { d: THUMB }));
}

function rating(id) {
  const said = el("span", { role: "status", class: "note" });
  const vote = (label, direction, score) => {
    const button = el("button", { type: "button", class: "vote", "aria-label": label,
      "aria-pressed": "false", title: label }, thumb(direction));
    button.addEventListener("click", async () => {
      try {
        await api.feedback(id, score);
        for (const other of both) other.setAttribute("aria-pressed", String(other === button));
        said.textContent = "Stored with the decision, to learn from.";
      } catch (error) {
        said.textContent = `Not stored: ${error.message}`;
      }
    });
    return button;
  };
  const both = [vote("Good answer", "up", 1), vote("Bad answer", "down", 0)];
  return el("div", { class: "rating" }, el("span", {}, "Was it right?"), both,
    el("a", { class: "button", href: decisionAddress(id) }, "Open the decision"),
    said);
}

function explanation(id, decision) {
  const figures = [
    format.money(decision.outcome?.cost_usd),
    format.seconds(decision.outcome?.latency_s),
    decision.policy ? `policy ${decision.policy_name}` : null,
  ];
  return [
    reasonList(decision.reasons),
    el("p", { class: "note" }, figures.filter((f) => f && f !== format.DASH).join(" · ")),
    rating(id),
  ];
}

async function explain(view, id) {
  if (!id) return;
  try {
    const decision = await api.settledDecision(id);
    view.head.replaceChildren("Answered by ", badge(decision.outcome?.target ?? decision.target));
    view.why.replaceChildren(...explanation(id, decision));
  } catch (error) {
    view.why.replaceChildren(el("p", { class: "problem" },
      `The decision could not be read: ${error.message}`));
  }
}

async function run(model, prompt) {
  const view = answerView();
  let id = null;
  running = new AbortController();
  setRunning(true);
  try {
    await api.ask(model, prompt, {
      signal: running.signal,
      onStart: (answer) => {
        id = answer.id;
        view.head.replaceChildren("Answered by ", badge(answer.target));
        view.text.classList.add("streaming");
      },
      onPiece: (piece) => view.text.append(piece),
    });
  } catch (error) {
    const why = error.name === "AbortError" ? "Stopped." : `No whole answer: ${error.message}`;
    view.text.append(el("p", { class: "problem", role: "alert" }, why));
    if (!id) setText(view.head, "Not answered");
  } finally {
    running = null;
    setRunning(false);
    view.text.classList.remove("streaming");
    view.text.setAttribute("aria-busy", "false");
    if (view.text.textContent === "") view.text.append(el("i", {}, "The answer is empty."));
  }
  await explain(view, id);
}

function setRunning(on) {
  byId("send").disabled = on;
  show(byId("stop"), on);
}

function submit() {
  const box = byId("prompt");
  const prompt = box.value.trim();
  if (running) return;
  if (!prompt) {
    box.focus();
    return;
  }
  run(byId("model").value || "wye", prompt);
}

function startKey() {
  byId("key").value = givenKey() ?? "";
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(byId("key").value.trim());
    setText(byId("key-note"), givenKey()
      ? "Used for the requests of this tab, and forgotten with it."
      : "No key is used.");
    preview();
  });
}

function startForm() {
  byId("try").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    }
  });
  byId("prompt").addEventListener("input", () => {
    show(byId("prompt-why"), false);
    preview();
  });
  byId("model").addEventListener("change", preview);
  byId("stop").addEventListener("click", () => running?.abort());
  byId("more-prompts").addEventListener("click", () => {
    offset = (offset + SHOWN) % prompts.length;
    suggest();
  });
}

/** The page at `#/playground`: button, Ctrl+Enter or Cmd+Enter, stop. */
export function playgroundPage() {
  startForm();
  startKey();
  const showModels = whenChanged(drawModels);
  const showPrompts = whenChanged((list) => {
    prompts = list;
    offset = 0;
    suggest();
  });
  return {
    async refresh() {
      const [names, suggested] = await Promise.all([api.names(), api.playground()]);
      const { policies, default_policy, targets } = names;
      showModels({ policies, default_policy, targets });
      keyNeeded(names.key_needed);
      show(byId("key-form"), names.key_needed || givenKey() !== null);
      showPrompts(suggested.prompts ?? []);
    },
    close() {
      stopPreview();
      running?.abort();
    },
  };
}
