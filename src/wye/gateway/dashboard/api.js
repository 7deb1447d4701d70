/** The gateway's endpoints, relative to the page, so that a path prefix of a proxy is kept. */

import { asClient } from "./access.js";

const PATIENCE_MS = 10_000;

/** The gateway answered with an error, or did not answer (`status` 0). */
export class GatewayError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  try {
    return await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") {
      throw new GatewayError(0, `no answer within ${PATIENCE_MS / 1000} s`);
    }
    throw new GatewayError(0, "the connection failed");
  }
}

/** The message of an error response: OpenAI's shape, plain text, or the status alone. */
async function complaint(response) {
  const text = await response.text().catch(() => "");
  try {
    const body = JSON.parse(text);
    const message = body?.error?.message ?? body?.detail ?? body?.message;
    if (typeof message === "string") return message;
  } catch {
    return text.slice(0, 300) || `status ${response.status}`;
  }
  return `status ${response.status}`;
}

async function ok(response) {
  if (!response.ok) throw new GatewayError(response.status, await complaint(response));
  return response;
}

async function read(path) {
  const response = await ok(await request(path, { signal: AbortSignal.timeout(PATIENCE_MS) }));
  try {
    return await response.json();
  } catch {
    throw new GatewayError(response.status, `${path} did not answer with JSON`);
  }
}

/** Parameters that are known, behind a path. */
function query(path, parameters = {}) {
  const given = Object.entries(parameters)
    .filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

const part = encodeURIComponent;

export const summary = (since) => read(query("api/summary", { since }));
export const series = (bucket, since) => read(query("api/series", { bucket, since }));
export const names = () => read("api/names");
export const targets = () => read("api/targets");
export const frontier = () => read("api/frontier");
export const playground = () => read("api/playground");
export const calibration = () => read("api/calibration");
export const alarms = (limit, open = false) => read(query("api/alarms", { limit, open }));
export const experiments = () => read("api/experiments");
export const keys = () => read("api/keys");
export const decisions = (parameters) => read(query("api/decisions", parameters));
export const decision = (id) => read(`api/decisions/${part(id)}`);
export const replay = (id, policy) => read(query(`api/decisions/${part(id)}/replay`, { policy }));

async function change(method, path, body) {
  const response = await ok(await request(path, {
    method,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE_MS),
  }));
  return response.json();
}

export const addKey = (body) => change("POST", "api/keys", body);
export const changeKey = (id, body) => change("PATCH", `api/keys/${part(id)}`, body);
export const revokeKey = (id) => change("POST", `api/keys/${part(id)}/revoke`, {});
export const acknowledge = (id) => change("POST", `api/alarms/${part(id)}/ack`, {});

export const startExperiment = (body) => change("POST", "api/experiments", body);
const endExperiment = (id, order) =>
  change("POST", `api/experiments/${part(id)}/stop`, { note: "from the dashboard", ...order });
export const stopExperiment = (id) => endExperiment(id, {});
export const promoteExperiment = (id) => endExperiment(id, { promote: true });
export const rollback = () => change("POST", "api/rollback", {});

/** A decision with its outcome, which is written a moment after the last piece of the answer. */
export async function settledDecision(id, attempts = 6) {
  for (let attempt = 1; ; attempt += 1) {
    const found = await decision(id);
    if (found.outcome || attempt >= attempts) return found;
    await new Promise((resolve) => setTimeout(resolve, 60 * attempt));
  }
}

/** Say how good the answer of a decision was, 0 (bad) to 1 (good). */
export async function feedback(id, score) {
  await ok(
    await request("v1/feedback", {
      method: "POST",
      ...asClient(),
      body: JSON.stringify({ decision: id, quality: score }),
      signal: AbortSignal.timeout(PATIENCE_MS),
    }),
  );
}

const asked = (model, prompt) => ({ model, messages: [{ role: "user", content: prompt }] });

/** What would be chosen for a prompt; nothing is sent to any target. */
export async function choose(model, prompt, signal) {
  const response = await ok(await request("api/choose", {
    method: "POST", ...asClient(), body: JSON.stringify(asked(model, prompt)), signal,
  }));
  return response.json();
}

/** The `data:` payloads of a server-sent event stream, as they arrive. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r", "");
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const data = lines.filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

/**
 * Ask a model and hand over the answer piece by piece.
 *
 * `onStart({ id, target })` is called once the gateway has decided, `onPiece(text)` for each piece.
 * Resolves when the answer is whole; rejects with GatewayError where it breaks off.
 */
export async function ask(model, prompt, { signal, onStart, onPiece }) {
  const response = await ok(
    await request("v1/chat/completions", {
      method: "POST",
      ...asClient(),
      body: JSON.stringify({ ...asked(model, prompt), stream: true }),
      signal,
    }),
  );
  onStart({
    id: response.headers.get("x-wye-decision"),
    target: response.headers.get("x-wye-target"),
  });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new GatewayError(200, chunk.error.message ?? "the answer broke off");
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) onPiece(piece);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof GatewayError) throw error;
    throw new GatewayError(0, "the connection broke off in the middle of the answer");
  }
  throw new GatewayError(200, "the answer ended without [DONE]: it may be incomplete");
}
