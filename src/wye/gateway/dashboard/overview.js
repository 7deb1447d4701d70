/** The overview: what the traffic came to in a time, and what needs a look. */

import { alarmItem } from "./alarms.js";
import * as api from "./api.js";
import { snippetsInto } from "./connect.js";
import { decisionTable } from "./decision_rows.js";
import { byId, reconcile, setText, show, whenChanged } from "./dom.js";
import { showFigures } from "./figures.js";
import * as format from "./format.js";
import { address } from "./router.js";
import { drawSeries, hasTraffic } from "./series.js";
import { showShares } from "./targets.js";

const HOUR = 3600;
const WINDOWS = { "1h": HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR, "30d": 720 * HOUR, all: null };
const USUAL = "24h";
const BUCKETS = [10, 60, 300, 900, HOUR, 2 * HOUR, 6 * HOUR, 24 * HOUR, 168 * HOUR];
const MOST_BARS = 120;
const LATEST = 8;
const ALARMS = 3;

/** The shortest bar under which the traffic since then fills the chart without crowding it. */
function bucketFor(since) {
  const age = since ? Date.now() / 1000 - since : 0;
  return BUCKETS.find((bucket) => age / bucket <= MOST_BARS) ?? BUCKETS.at(-1);
}

function showStore(store) {
  const broken = store && (store.ok === false || store.lost > 0);
  show(byId("store-problem"), Boolean(broken));
  if (!broken) return;
  const records = format.plural(store.lost, "record");
  const lost = store.lost > 0 ? ` ${records} could not be written.` : "";
  setText(byId("store-problem"),
    `The store does not keep every decision.${lost} Answers go on; see the log.`);
}

function showAlarms(list) {
  reconcile(byId("overview-alarms"), list, (a) => a.id, (a) => alarmItem(a, false), () => {});
  show(byId("overview-calm"), list.length === 0);
}

/** The page at `#/overview?window=…`. */
export function overviewPage(place) {
  const showDecisions = decisionTable();
  let chosen = USUAL;
  let drawn = null;

  const read = ({ query }) => {
    const wanted = query.get("window");
    chosen = Object.hasOwn(WINDOWS, wanted ?? "") ? wanted : USUAL;
    for (const input of document.querySelectorAll("input[name=window]")) {
      input.checked = input.value === chosen;
    }
  };

  const draw = () => {
    const holder = byId("series");
    if (drawn && hasTraffic(drawn.rows) && holder.clientWidth) {
      drawSeries(holder, drawn.rows, drawn.bucket, holder.clientWidth, byId("series-readout"));
    }
  };
  const showSeries = whenChanged((next) => {
    drawn = next;
    draw();
  });

  snippetsInto(byId("start-snippets"));
  read(place);
  for (const input of document.querySelectorAll("input[name=window]")) {
    input.addEventListener("change", () => {
      location.hash = address("overview", null, { window: input.value });
    });
  }

  return {
    async refresh() {
      const asked = chosen;
      const seconds = WINDOWS[asked];
      const since = seconds === null ? null : Math.floor(Date.now() / 1000 - seconds);
      const summary = await api.summary(since);
      const bucket = bucketFor(summary.since);
      const [page, rows, alarms] = await Promise.all([
        api.decisions({ limit: LATEST }), api.series(bucket, since), api.alarms(ALARMS, true),
      ]);
      // The reader chose another time meanwhile.
      if (asked !== chosen) {
        await this.refresh();
        return;
      }
      const fresh = !summary.requests && !page.data.length;
      show(byId("start"), fresh);
      show(byId("quiet"), !fresh && !summary.requests);
      show(byId("busy"), summary.requests > 0);
      showFigures(summary);
      showStore(summary.store);
      setText(byId("baseline-name"), summary.baseline ?? "the best model");
      showShares(byId("shares"), summary.targets);
      showDecisions(page.data);
      showAlarms(alarms.data);
      showSeries({ rows, bucket });
    },
    follow(next) {
      read(next);
      document.dispatchEvent(new Event("wye:changed"));
    },
    resize: draw,
  };
}
