/** The key figures at the top of the overview. */

import { byId, setText } from "./dom.js";
import * as format from "./format.js";

function savedNote(usd, best) {
  if (usd === null || usd === undefined) return "needs the prices of the targets";
  return usd < 0
    ? `${format.money(-usd)} more than all to ${best}`
    : `${format.money(usd)} less than all to ${best}`;
}

function figures(summary) {
  const { quality = {}, latency_ms: latency = {}, router_ms: router = {} } = summary;
  const best = summary.baseline ?? "the best model";
  const share = summary.requests ? summary.errors / summary.requests : null;
  return {
    requests: [
      format.count(summary.requests),
      `since ${format.clock(summary.since, false)}`,
    ],
    spend: [
      format.money(summary.spend_usd),
      `${format.money(summary.baseline_usd)} had all gone to ${best}`,
    ],
    saved: [format.percent(summary.saved_share), savedNote(summary.saved_usd, best)],
    quality: [
      format.quality(quality.mean),
      quality.n ? `mean of ${format.plural(quality.n, "rated answer")}` : "no answer rated yet",
    ],
    latency: [
      format.milliseconds(latency.p50),
      `p95 ${format.milliseconds(latency.p95)}, choice ${format.milliseconds(router.p50)}`,
    ],
    errors: [
      format.count(summary.errors),
      summary.errors ? `${format.percent(share)} of requests` : "every request was answered",
    ],
  };
}

/** Bring the key figures up to date with `/api/summary`. */
export function showFigures(summary) {
  for (const [name, [value, note]] of Object.entries(figures(summary))) {
    setText(byId(`figure-${name}`), value);
    setText(byId(`note-${name}`), note);
  }
  byId("figure-saved").classList.toggle("gain", summary.saved_usd > 0);
  byId("figure-errors").classList.toggle("bad", summary.errors > 0);
}
