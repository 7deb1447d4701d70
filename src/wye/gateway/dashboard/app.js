/** The frame of the page: which page is shown, how often it asks the gateway, and how that goes. */

import * as api from "./api.js";
import { alarmsPage } from "./alarms.js";
import { startConnect } from "./connect.js";
import { decisionsPage } from "./decisions.js";
import { byId, setAttribute, setText, show } from "./dom.js";
import { experimentsPage } from "./experiments.js";
import * as format from "./format.js";
import { frontierPage } from "./frontier_page.js";
import { keysPage } from "./keys.js";
import { overviewPage } from "./overview.js";
import { playgroundPage } from "./playground.js";
import { FIRST, here } from "./router.js";
import { targetsPage } from "./targets_page.js";

const EVERY_MS = 3000;
const SLOWEST_MS = 30_000;
const PAGES = {
  overview: overviewPage,
  decisions: decisionsPage,
  targets: targetsPage,
  keys: keysPage,
  experiments: experimentsPage,
  alarms: alarmsPage,
  frontier: frontierPage,
  playground: playgroundPage,
};

/** The page that is open: `{ name, refresh, follow, resize, loaded }`. */
let open = null;
let failures = 0;
let timer = null;
let asking = null;
let lastGood = null;

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
  const seen = open?.loaded ? `What is shown is from ${format.clock(lastGood)}. ` : "";
  const hint = error.status
    ? `It says: ${error.message} `
    : "Start it again with `wye up` or `wye serve`. ";
  setText(byId("gone-text"), `${seen}${hint}This page tries again by itself.`);
  show(byId("gone"), true);
}

async function refresh() {
  if (asking === open) return;
  const page = open;
  asking = page;
  clearTimeout(timer);
  try {
    await page.refresh();
    if (page !== open) return;
    if (!page.loaded) {
      page.loaded = true;
      show(byId("loading"), false);
      show(byId("page"), true);
      page.resize?.();
    }
    showLive();
  } catch (error) {
    if (page !== open) return;
    show(byId("loading"), false);
    showGone(error);
    if (!(error instanceof api.GatewayError)) throw error;
  } finally {
    if (asking === page) asking = null;
    if (page === open) schedule();
  }
}

function schedule() {
  clearTimeout(timer);
  if (document.hidden) return;
  timer = setTimeout(refresh, Math.min(EVERY_MS * 2 ** Math.min(failures, 4), SLOWEST_MS));
}

/** Alarms that nobody has seen yet are told on every page; nothing depends on it. */
async function countAlarms() {
  if (document.hidden) return;
  try {
    const { open: number } = await api.alarms(1, true);
    setText(byId("nav-alarms"), number ? format.count(number) : "");
    setAttribute(byId("nav-alarms"), "aria-label", `${number} open`);
    show(byId("nav-alarms"), number > 0);
  } catch (error) {
    show(byId("nav-alarms"), false);
    if (!(error instanceof api.GatewayError)) throw error;
  }
}

function mark(name) {
  for (const link of byId("nav").children) {
    const current = link.getAttribute("href") === `#/${name}`;
    if (current) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
}

function show404(name) {
  setText(byId("loading"), `There is no page ${name}. Choose one above.`);
  show(byId("loading"), true);
  show(byId("page"), false);
  open = null;
  clearTimeout(timer);
}

/** Open the page of the address, or tell the open one that its part of the address has changed. */
function follow(first = false) {
  // The skip link's own address is no page.
  if (location.hash === "#main") return;
  const place = here();
  if (open?.name === place.name) {
    open.follow?.(place);
    return;
  }
  open?.close?.();
  mark(place.name);
  if (!Object.hasOwn(PAGES, place.name)) {
    show404(place.name);
    return;
  }
  byId("page").replaceChildren(byId(`page-${place.name}`).content.cloneNode(true));
  show(byId("page"), false);
  setText(byId("loading"), "Loading…");
  show(byId("loading"), true);
  show(byId("gone"), false);
  open = { name: place.name, loaded: false, ...PAGES[place.name](place) };
  const title = byId("page").querySelector("h1").textContent;
  document.title = `${title} · wye gateway`;
  if (!first) {
    scrollTo(0, 0);
    byId("main").focus({ preventScroll: true });
  }
  refresh();
}

function start() {
  startConnect();
  byId("retry").addEventListener("click", refresh);
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  document.addEventListener("wye:changed", refresh);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else refresh();
  });
  addEventListener("hashchange", () => follow());
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    if (open?.loaded) open.resize?.();
  }).observe(byId("main"));
  if (!location.hash) history.replaceState(null, "", `#/${FIRST}`);
  follow(true);
  countAlarms();
  setInterval(countAlarms, SLOWEST_MS);
}

start();
