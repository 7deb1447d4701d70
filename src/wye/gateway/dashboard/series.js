/** Spend against 'all to the best model' as running totals over time, with requests below. */

import { linear, linearTicks, timeTicks } from "./axes.js";
import { svg } from "./dom.js";
import { explore } from "./explore.js";
import * as format from "./format.js";

const HEIGHT = 340;
const MONEY = { top: 12, bottom: 244 };
const BARS = { top: 266, bottom: 312 };
const RIGHT = 16;
const HALF_LETTER = 3.4;
const LEAST_BUCKETS = 12;

/** Rows of the API as running totals: `[{ start, requests, spend, baseline }]`, oldest first. */
function totals(rows) {
  let spend = 0;
  let baseline = 0;
  return rows
    .map((row) => ({ ...row, start: format.moment(row.time)?.getTime() }))
    .filter((row) => row.start !== undefined)
    .sort((a, b) => a.start - b.start)
    .map((row) => {
      spend += row.spend_usd ?? 0;
      baseline += row.baseline_usd ?? 0;
      return { start: row.start, requests: row.requests ?? 0, errors: row.errors ?? 0, spend, baseline };
    });
}

/** A running total as a path: flat until a bucket with spend begins, sloped through it. */
function corners(buckets, length, last, value) {
  const points = [[buckets[0].start, 0]];
  let before = 0;
  for (const bucket of buckets) {
    points.push([bucket.start, before], [Math.min(bucket.start + length, last), value(bucket)]);
    before = value(bucket);
  }
  points.push([last, before]);
  return points;
}

function path(points, x, y) {
  const step = ([t, v], k) => `${k ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`;
  return points.map(step).join("");
}

function grid(root, ticks, y, left, right, text) {
  for (const tick of ticks) {
    root.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, text(tick)),
    );
  }
}

function sentence(bucket) {
  const saved = bucket.baseline - bucket.spend;
  const difference = `${format.money(Math.abs(saved))} ${saved < 0 ? "more" : "saved"}`;
  return (
    `${format.clock(new Date(bucket.start))}: ${format.plural(bucket.requests, "request")}` +
    `${bucket.errors ? ` (${format.plural(bucket.errors, "error")})` : ""}, ` +
    `${format.money(bucket.spend)} spent so far instead of ` +
    `${format.money(bucket.baseline)} (${difference})`
  );
}

function readable(root, buckets, centre, readout) {
  const cursor = svg("line", { class: "cursor", y1: MONEY.top, y2: BARS.bottom });
  root.append(cursor);
  explore(root, {
    size: buckets.length,
    nearest: (x) => {
      const far = buckets.map((b) => Math.abs(centre(b) - x));
      return far.indexOf(Math.min(...far));
    },
    enter: (index) => {
      cursor.setAttribute("x1", centre(buckets[index]));
      cursor.setAttribute("x2", centre(buckets[index]));
      cursor.classList.add("on");
      readout.textContent = sentence(buckets[index]);
    },
    leave: () => {
      cursor.classList.remove("on");
      readout.textContent = "";
    },
  });
}

/** True where there is something to draw. */
export function hasTraffic(rows) {
  return rows.some((row) => row.requests > 0 && format.moment(row.time));
}

/** Draw rows of `/api/series` with buckets of `bucket` seconds into `holder`. */
export function drawSeries(holder, rows, bucket, width, readout) {
  const buckets = totals(rows);
  const length = bucket * 1000;
  const last = buckets.at(-1).start + length;
  const first = Math.min(buckets[0].start, last - LEAST_BUCKETS * length);
  const most = Math.max(...buckets.map((b) => Math.max(b.spend, b.baseline)), 1e-12);
  const moneyTicks = linearTicks(0, most * 1.05, 5);
  const labels = moneyTicks.map((tick) => format.money(tick));
  const left = 18 + Math.max(...labels.map((label) => label.length)) * 6.6;
  const right = width - RIGHT;

  const x = linear([first, last], [left, right]);
  const y = linear([0, most * 1.05], [MONEY.bottom, MONEY.top]);
  const busiest = Math.max(...buckets.map((b) => b.requests), 1);
  const height = linear([0, busiest], [0, BARS.bottom - BARS.top]);

  const root = svg("svg", {
    class: "chart series", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0,
    role: "img",
    "aria-label": "Running total of the spend, and of what the best model alone would have cost; " +
      "requests below. Left and right arrows read the figures.",
  });
  grid(root, moneyTicks, y, left, right, (tick) => format.money(tick));
  grid(root, [0, busiest], (n) => BARS.bottom - height(n), left, right, format.count);
  for (const { time, label } of timeTicks(first, last, Math.floor((right - left) / 80))) {
    const half = label.length * HALF_LETTER;
    if (x(time) - half < 0 || x(time) + half > width) continue;
    root.append(
      svg("text", { class: "tick", x: x(time), y: HEIGHT - 8, "text-anchor": "middle" }, label),
    );
  }

  const spend = corners(buckets, length, last, (b) => b.spend);
  const baseline = corners(buckets, length, last, (b) => b.baseline);
  const between = `${path(baseline, x, y)}${path(spend.toReversed(), x, y).replace("M", "L")}Z`;
  root.append(
    svg("path", { class: "saved", d: between }),
    svg("path", { class: "curve baseline", d: path(baseline, x, y) }),
    svg("path", { class: "curve spend", d: path(spend, x, y) }),
  );
  const slot = x(first + length) - x(first);
  const wide = slot > 5 ? slot - 1.5 : slot;
  const bar = (b, number, kind) => {
    const tall = number ? Math.max(1.5, height(number)) : 0;
    const place = { x: x(b.start), y: BARS.bottom - tall, width: wide, height: tall };
    return svg("rect", { class: kind, ...place });
  };
  root.append(...buckets.map((b) => bar(b, b.requests, "bar")),
    ...buckets.filter((b) => b.errors).map((b) => bar(b, b.errors, "failed")));
  readable(root, buckets, (b) => x(b.start) + wide / 2, readout);
  holder.replaceChildren(root);
}
