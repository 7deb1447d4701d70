/** The form that makes a key or changes its limits, and the one look at a new key's secret. */

import * as api from "./api.js";
import { byId, el, setText } from "./dom.js";

const FIELDS = [
  ["budget_day", "USD a day"], ["budget_month", "USD a month"], ["budget_total", "USD in total"],
  ["per_request", "USD a request"], ["per_session", "USD a session"],
  ["requests_per_minute", "Requests a minute"], ["tokens_per_minute", "Tokens a minute"],
];
const WHOLE = ["requests_per_minute", "tokens_per_minute"];

function numberField(name, label, limits) {
  const value = limits[name] ?? "";
  return el("label", {}, label, el("input", { type: "number", name, min: WHOLE.includes(name) ? 1 : 0,
    step: WHOLE.includes(name) ? 1 : "any", value, placeholder: "no limit", inputmode: "decimal" }));
}

function targetBoxes(targets, limits) {
  const some = limits.targets;
  return el("fieldset", {}, el("legend", {}, "Targets it may use; none marked is all"),
    targets.map((name) => el("label", { class: "box" },
      el("input", { type: "checkbox", name: "targets", value: name,
        checked: some?.includes(name) ?? false }), name)));
}

function policySelect(policies, limits) {
  return el("label", {}, "Policy of the model wye", el("select", { name: "policy" },
    el("option", { value: "" }, "the default"),
    policies.map((name) =>
      el("option", { value: name, selected: limits.policy === name }, name))));
}

function expiry(limits) {
  const date = limits.expires ? new Date(limits.expires * 1000) : null;
  const value = date
    ? new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16) : "";
  return el("label", {}, "Expires", el("input", { type: "datetime-local", name: "expires", value }));
}

/** What the form says, as limits: null where there is none. */
function limitsOf(form) {
  const number = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));
  const marked = [...form.querySelectorAll("[name=targets]:checked")].map((box) => box.value);
  const expires = form.elements.expires.value;
  return {
    ...Object.fromEntries(FIELDS.map(([name]) => [name, number(name)])),
    targets: marked.length ? marked : null,
    policy: form.elements.policy.value || null,
    expires: expires ? new Date(expires).getTime() / 1000 : null,
  };
}

const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);

/** Limits that differ from those before; a moment that the form shows to the minute stays exact. */
function changesOf(form, before) {
  const after = limitsOf(form);
  const shown = before.expires ? Math.floor(before.expires / 60) * 60 : null;
  return Object.fromEntries(Object.entries(after).filter(([name, value]) =>
    name === "expires" ? !same(value, shown) : !same(value, before[name])));
}

function secretView(name, secret) {
  const code = el("code", {}, secret);
  const copy = el("button", { type: "button", class: "small", "aria-live": "polite" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(secret);
      setText(copy, "Copied");
    } catch {
      getSelection().selectAllChildren(code);
      setText(copy, "Selected: press Ctrl+C");
    }
  });
  const done = el("button", { type: "button", class: "primary" }, "I have kept it");
  done.addEventListener("click", () => byId("key-dialog").close());
  return el("div", { class: "form" },
    el("p", {}, `This is the key of ${name}. It is shown this once; the store keeps a digest.`),
    el("p", { class: "secret", id: "secret" }, code, copy),
    el("div", { class: "buttons" }, done));
}

/** Open the form: for a new key where `key` is null. `names` are the configured ones. */
export function openKeyForm(key, names) {
  const dialog = byId("key-dialog");
  const limits = key?.limits ?? {};
  const problem = el("p", { class: "problem", role: "alert" });
  const send = el("button", { type: "submit", class: "primary" }, key ? "Change" : "Make");
  const form = el("form", { class: "form" },
    key ? null : el("label", {}, "Name", el("input", { name: "name", required: true, maxlength: 100,
      autocomplete: "off", placeholder: "who or what it is for" })),
    el("div", { class: "grid" }, FIELDS.map(([name, label]) => numberField(name, label, limits)),
      policySelect(names.policies, limits), expiry(limits)),
    targetBoxes(names.targets, limits), problem, el("div", { class: "buttons" }, send));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(problem, "");
    send.disabled = true;
    try {
      if (key) {
        const changes = changesOf(form, limits);
        if (Object.keys(changes).length) await api.changeKey(key.id, changes);
        dialog.close();
      } else {
        const name = form.elements.name.value;
        const given = Object.entries(limitsOf(form)).filter(([, value]) => value !== null);
        const made = await api.addKey({ name, ...Object.fromEntries(given) });
        byId("key-body").replaceChildren(secretView(made.key.name, made.secret));
        byId("key-body").querySelector("button").focus();
      }
      document.dispatchEvent(new Event("wye:changed"));
    } catch (error) {
      setText(problem, error.message);
    } finally {
      send.disabled = false;
    }
  });
  setText(byId("key-title"), key ? `Change ${key.name}` : "Make a key");
  byId("key-body").replaceChildren(form);
  dialog.showModal();
  form.querySelector("input").focus();
}
