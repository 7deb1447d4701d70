/** The page: asks the gateway every few seconds and shows what it says. */

import * as api from "./api.js";
import { startConnect } from "./connect.js";
import { fetchDecisions, showDecisions, startDecisions } from "./decisions.js";
import { startDetail } from "./detail.js";
import { byId, setAttribute, setText, show, whenChanged } from "./dom.js";
import { showFigures } from "./figures.js";
import * as format from "./format.js";
import { drawable, drawFrontier, frontierRows } from "./frontier.js";
import { showModels, showSuggestions, startPlayground } from "./playground.js";
import { drawSeries, hasTraffic } from "./series.js";
import { showTargets } from "./targets.js";

const EVERY_MS = 3000;
const MOST_BARS = 120;
const SLOWEST_MS = 30_000;
const FRONTIER_EVERY = 10;
const NO_REPORT = "No report yet: train a router with `wye train` to see what it would save.";

let rounds = 0;
let failures = 0;
let timer = null;
let asking = false;
let lastGood = null;
let latestSeries = [];
let latestPoints = [];

function showStore(store) {
  const broken = store && (store.ok === false || store.lost > 0);
  show(byId("store-problem"), Boolean(broken));
  if (!broken) return;
  const records = format.plural(store.lost, "record");
  const lost = store.lost > 0 ? ` ${records} could not be written.` : "";
  setText(byId("store-problem"),
    `The store does not keep every decision.${lost} Answers go on; see the log.`);
}

function showSummary(summary) {
  const fresh = !summary.requests;
  show(byId("start"), fresh);
  show(byId("traffic"), !fresh);
  showFigures(summary);
  showStore(summary.store);
  setText(byId("baseline-name"), summary.baseline ?? "the best model");
  showTargets(byId("targets"), summary.targets ?? []);
  show(byId("targets-empty"), !(summary.targets ?? []).length);
  showModels(summary);
}

const bucket = () => Number(document.querySelector("input[name=bucket]:checked").value);

/** The shortest bar under which the traffic so far fills the chart without crowding it. */
function chooseBucket(since) {
  const age = since ? Date.now() / 1000 - since : 0;
  const inputs = [...document.querySelectorAll("input[name=bucket]")];
  const fitting = inputs.find((input) => age / Number(input.value) <= MOST_BARS);
  (fitting ?? inputs.at(-1)).checked = true;
}

function drawTraffic() {
  const some = hasTraffic(latestSeries);
  const holder = byId("series");
  show(byId("series-empty"), !some);
  show(holder, some);
  if (some && holder.clientWidth) {
    drawSeries(holder, latestSeries, bucket(), holder.clientWidth, byId("series-readout"));
  }
}

function drawPoints() {
  const holder = byId("frontier");
  const some = drawable(latestPoints).length > 0;
  show(byId("frontier-empty"), !some);
  show(holder, some);
  show(byId("frontier-legend"), some);
  show(byId("frontier-table"), latestPoints.length > 0);
  byId("frontier-rows").replaceChildren(...frontierRows(latestPoints));
  if (some && holder.clientWidth) {
    drawFrontier(holder, latestPoints, holder.clientWidth, byId("frontier-readout"));
  }
}

const showSeries = whenChanged(({ rows }) => {
  latestSeries = rows;
  drawTraffic();
});

const showFrontier = whenChanged(({ points, note }) => {
  latestPoints = points ?? [];
  const some = drawable(latestPoints).length > 0;
  setText(byId("frontier-note"), some ? note ?? "" : "");
  setText(byId("frontier-empty"), note || NO_REPORT);
  drawPoints();
});

function showLive() {
  failures = 0;
  lastGood = new Date();
  show(byId("gone"), false);
  document.body.classList.toggle("stale", false);
  setAttribute(byId("status"), "data-state", "live");
  setText(byId("status"), "Live");
  setText(byId("updated"), `updated ${format.clock(lastGood)}`);
}

function showGone(error) {
  failures += 1;
  setAttribute(byId("status"), "data-state", "gone");
  setText(byId("status"), error.status ? "Gateway in trouble" : "Gateway gone");
  document.body.classList.toggle("stale", true);
  setText(byId("gone-title"), error.status
    ? `The gateway answers with an error (status ${error.status})`
    : "The gateway does not answer");
  const seen = lastGood ? `The figures below are from ${format.clock(lastGood)}. ` : "";
  const hint = error.status
    ? `It says: ${error.message} `
    : "Start it again with `wye up` or `wye serve`. ";
  setText(byId("gone-text"), `${seen}${hint}This page tries again by itself.`);
  show(byId("gone"), true);
}

async function refresh() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const summary = await api.summary();
    if (rounds === 0) chooseBucket(summary.since);
    const size = bucket();
    const [decisions, rows] = await Promise.all([fetchDecisions(), api.series(size)]);
    showSummary(summary);
    showDecisions(decisions);
    if (size === bucket()) showSeries({ rows, size });
    if (rounds % FRONTIER_EVERY === 0) refreshReport(rounds === 0);
    rounds += 1;
    showLive();
  } catch (error) {
    showGone(error);
    if (!(error instanceof api.GatewayError)) throw error;
  } finally {
    asking = false;
    schedule();
  }
}

/** What changes seldom and may take long: on its own, so that the figures never wait for it. */
async function refreshReport(first) {
  try {
    showFrontier(await api.frontier());
    if (first) showSuggestions((await api.playground()).prompts ?? []);
  } catch (error) {
    setText(byId("frontier-empty"), `The report could not be read: ${error.message}`);
    if (!(error instanceof api.GatewayError)) throw error;
  }
}

function schedule() {
  clearTimeout(timer);
  if (document.hidden) return;
  timer = setTimeout(refresh, Math.min(EVERY_MS * 2 ** Math.min(failures, 4), SLOWEST_MS));
}

function start() {
  startConnect();
  startPlayground();
  startDecisions();
  startDetail();
  byId("retry").addEventListener("click", refresh);
  for (const input of document.querySelectorAll("input[name=bucket]")) {
    input.addEventListener("change", refresh);
  }
  document.addEventListener("wye:changed", refresh);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else refresh();
  });
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    drawTraffic();
    drawPoints();
  }).observe(byId("main"));
  refresh();
}

start();
