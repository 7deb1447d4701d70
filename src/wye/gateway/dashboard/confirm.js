/** A question before something that cannot be taken back. Escape and Cancel do nothing. */

import { byId, setText, show } from "./dom.js";

/** Ask; on the button named `verb`, `act` runs, and its failure is told in the dialog. */
export function confirm({ title, text, verb, act }) {
  const dialog = byId("confirm");
  const [yes, no] = [byId("confirm-yes"), byId("confirm-no")];
  const listeners = new AbortController();
  const on = (node, kind, work) => node.addEventListener(kind, work, { signal: listeners.signal });
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(yes, verb);
  show(byId("confirm-problem"), false);
  yes.disabled = false;
  on(no, "click", () => dialog.close());
  on(dialog, "close", () => listeners.abort());
  on(yes, "click", async () => {
    yes.disabled = true;
    try {
      await act();
      dialog.close();
      document.dispatchEvent(new Event("wye:changed"));
    } catch (error) {
      setText(byId("confirm-problem"), `Not done: ${error.message}`);
      show(byId("confirm-problem"), true);
    } finally {
      yes.disabled = false;
    }
  });
  dialog.showModal();
  no.focus();
}
