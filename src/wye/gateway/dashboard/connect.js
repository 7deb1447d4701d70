/** How a client connects: snippets with this gateway's own address, each with a copy button. */

import { byId, el } from "./dom.js";

const QUESTION = "What is the capital of Mongolia?";

function snippets() {
  const base = new URL("v1", document.baseURI.split("#")[0]).href;
  const message = `{"role": "user", "content": "${QUESTION}"}`;
  return [
    ["curl", [
      `curl ${base}/chat/completions \\`,
      "  -H 'Content-Type: application/json' \\",
      "  -d '{",
      '    "model": "wye",',
      `    "messages": [${message}]`,
      "  }'",
    ].join("\n")],
    ["Python, the openai client", [
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url="${base}", api_key="unused")`,
      "answer = client.chat.completions.create(",
      '    model="wye",',
      `    messages=[{"role": "user", "content": "${QUESTION}"}],`,
      ")",
      "print(answer.choices[0].message.content)",
    ].join("\n")],
  ];
}

/** Copy, or where the browser forbids it (plain http from another machine), select the text. */
async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2500);
}

function snippet([title, text]) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "small", "aria-live": "polite" }, "Copy");
  button.addEventListener("click", () => copy(code, button));
  return el("figure", { class: "snippet" },
    el("figcaption", {}, title, button),
    el("pre", { tabindex: 0 }, code));
}

/** Put the snippets into `holder`. */
export function snippetsInto(holder) {
  holder.replaceChildren(...snippets().map(snippet));
}

/** Wire the dialog behind "Connect a client". */
export function startConnect() {
  snippetsInto(byId("connect-snippets"));
  const dialog = byId("connect");
  byId("connect-open").addEventListener("click", () => dialog.showModal());
  byId("connect-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
