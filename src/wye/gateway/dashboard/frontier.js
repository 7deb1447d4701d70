/**
 * The frontier: mean quality against mean cost of single targets, of mixes of them (the zero
 * router), of the router at several prices, and of the oracle. Cost is on a logarithmic axis.
 */

import { linear, linearTicks, logTicks, logarithmic } from "./axes.js";
import { el, svg } from "./dom.js";
import { explore } from "./explore.js";
import * as format from "./format.js";
import { placeLabels } from "./labels.js";
import { hue } from "./targets.js";

const HEIGHT = 330;
const MARGIN = { top: 14, right: 18, bottom: 44, left: 62 };
const REQUESTS = 1000;
const FONT_PX = 12;
const MIX_STEPS = 16;
const CROWDED = 12;

const KINDS = {
  single: "one target for everything",
  mix: "mix of targets by chance",
  router: "router",
  oracle: "oracle (best target each time)",
};

const price = (point) => format.money(point.cost_usd * REQUESTS, 2);

/** Describes a point in one line. */
function sentence(point) {
  return (
    `${point.label || KINDS[point.kind]}: quality ${format.quality(point.quality)} ` +
    `at ${price(point)} per 1,000 requests`
  );
}

/** The range of the drawn points, with a margin, as domains of the two axes. */
function domains(points) {
  const costs = points.map((p) => p.cost_usd).filter((c) => c > 0);
  const low = Math.min(...costs);
  const high = Math.max(...costs);
  const room = Math.max((high / low) ** 0.08, 1.15);
  const qualities = points.map((p) => p.quality);
  const bottom = Math.min(...qualities);
  const top = Math.max(...qualities);
  const air = Math.max((top - bottom) * 0.12, 0.02);
  return {
    cost: [low / room, high * room],
    quality: [Math.max(0, bottom - air), Math.min(1.02, top + air)],
  };
}

/**
 * The mix between neighbouring points. Answering by chance with either makes cost and quality
 * linear in the share of each, which is a curve where the cost axis is logarithmic.
 */
function mixed(points) {
  return points.flatMap((point, k) => {
    const next = points[k + 1];
    if (!next) return [point];
    return Array.from({ length: MIX_STEPS }, (_, step) => {
      const share = step / MIX_STEPS;
      const between = (name) => point[name] + share * (next[name] - point[name]);
      return { cost_usd: between("cost_usd"), quality: between("quality") };
    });
  });
}

function marker(point, x, y, crowded) {
  const colour = point.kind === "single" ? hue(point.label ?? "") : "";
  const common = { class: `mark ${point.kind} ${colour}`.trim(), "data-label": point.label ?? "" };
  if (point.kind === "oracle") {
    const d = `M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z`;
    return svg("path", { ...common, d });
  }
  const radius = point.kind === "router" && crowded ? 2.5 : 5;
  return svg("circle", { ...common, cx: x, cy: y, r: radius });
}

function curve(points, kind) {
  const d = points.map(({ x, y }, k) => `${k ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return svg("path", { class: `curve ${kind}`, d });
}

/** Boxes along a curve that labels had better not cover. */
function along(points) {
  const boxes = [];
  for (let k = 1; k < points.length; k += 1) {
    const [a, b] = [points[k - 1], points[k]];
    const steps = Math.max(1, Math.ceil(Math.hypot(b.x - a.x, b.y - a.y) / 8));
    for (let s = 0; s <= steps; s += 1) {
      const t = s / steps;
      const [x, y] = [a.x + (b.x - a.x) * t, a.y + (b.y - a.y) * t];
      boxes.push({ x: x - 3, y: y - 3, width: 6, height: 6, weight: 0.6 });
    }
  }
  return boxes;
}

/** Which points carry a label: each single, the oracle, and the last router point if unnamed. */
function labelled(placed) {
  const of = (kind) => placed.filter((p) => p.kind === kind);
  const routers = of("router");
  const names = new Set(routers.map((p) => p.label));
  const router =
    names.size === routers.length && routers.length <= 8
      ? routers
      : routers.filter((p, k) => k === routers.length - 1 || p.label !== routers[k + 1].label);
  return [...of("oracle"), ...router, ...of("single")].filter((p) => p.label);
}

/** Text widths in pixels at the size of the labels, by the browser's own measure. */
function measurer(node) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `500 ${FONT_PX}px ${getComputedStyle(node).fontFamily}`;
  return (text) => context.measureText(text).width + 4;
}

function drawLabels(layer, placed, curves, frame, measure) {
  const wanted = labelled(placed);
  const texts = wanted.map((p) => (p.label.length > 32 ? `${p.label.slice(0, 31)}…` : p.label));
  const markers = placed
    .filter((p) => p.kind !== "mix")
    .map((p) => ({ x: p.x - 7, y: p.y - 7, width: 14, height: 14, weight: 4 }));
  const boxes = placeLabels(
    wanted.map((p, k) => ({ x: p.x, y: p.y, width: measure(texts[k]), height: FONT_PX + 4 })),
    [...markers, ...curves.flatMap(along)],
    frame,
  );
  boxes.forEach((box, k) => {
    if (!box) return;
    const point = wanted[k];
    if (box.radius > 18) {
      const x2 = Math.min(Math.max(point.x, box.x), box.x + box.width);
      const y2 = Math.min(Math.max(point.y, box.y), box.y + box.height);
      layer.append(svg("line", { class: "leader", x1: point.x, y1: point.y, x2, y2 }));
    }
    const at = { class: `label ${point.kind}`, x: box.x + 2, y: box.y + FONT_PX };
    layer.append(svg("text", at, texts[k]));
  });
}

function drawAxes(root, scaleX, scaleY, domain, frame) {
  const bottom = frame.y + frame.height;
  for (const tick of linearTicks(...domain.quality, 6)) {
    const y = scaleY(tick);
    root.append(
      svg("line", { class: "grid", x1: frame.x, x2: frame.x + frame.width, y1: y, y2: y }),
      svg("text", { class: "tick", x: frame.x - 8, y: y + 4, "text-anchor": "end" },
        format.quality(tick)),
    );
  }
  const most = Math.max(2, Math.floor(frame.width / 74));
  for (const tick of logTicks(domain.cost[0] * REQUESTS, domain.cost[1] * REQUESTS, most)) {
    const x = scaleX(tick / REQUESTS);
    root.append(
      svg("line", { class: "grid", x1: x, x2: x, y1: frame.y, y2: bottom }),
      svg("text", { class: "tick", x, y: bottom + 17, "text-anchor": "middle" },
        format.money(tick, 2)),
    );
  }
  root.append(
    svg("text", { class: "axis", x: frame.x + frame.width / 2, y: bottom + 37,
      "text-anchor": "middle" }, "cost of 1,000 requests (log scale)"),
    svg("text", { class: "axis", "text-anchor": "middle",
      transform: `translate(13 ${frame.y + frame.height / 2}) rotate(-90)` }, "quality"),
  );
}

/** Points in reading order, with a ring around the one under hand, and its figures. */
function readable(root, placed, readout) {
  const order = placed.filter((p) => p.kind !== "mix").sort((a, b) => a.x - b.x || a.y - b.y);
  const ring = svg("circle", { class: "ring", r: 10 });
  root.append(ring);
  explore(root, {
    size: order.length,
    nearest: (x, y) => {
      const far = order.map((p) => Math.hypot(p.x - x, p.y - y));
      const least = Math.min(...far);
      return least < 40 ? far.indexOf(least) : -1;
    },
    enter: (index) => {
      ring.setAttribute("cx", order[index].x);
      ring.setAttribute("cy", order[index].y);
      ring.classList.add("on");
      readout.textContent = sentence(order[index]);
    },
    leave: () => {
      ring.classList.remove("on");
      readout.textContent = "";
    },
  });
}

/** Points with a known quality and a cost above zero: only they have a place on a log axis. */
export function drawable(points) {
  return points.filter((p) => Number.isFinite(p.quality) && p.quality !== null && p.cost_usd > 0);
}

/** Draw `points` into `holder`, `width` pixels wide; the figures under hand go to `readout`. */
export function drawFrontier(holder, points, width, readout) {
  const shown = drawable(points);
  const frame = {
    x: MARGIN.left,
    y: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right,
    height: HEIGHT - MARGIN.top - MARGIN.bottom,
  };
  const domain = domains(shown);
  const scaleX = logarithmic(domain.cost, [frame.x, frame.x + frame.width]);
  const scaleY = linear(domain.quality, [frame.y + frame.height, frame.y]);
  const placed = shown
    .map((p) => ({ ...p, x: scaleX(p.cost_usd), y: scaleY(p.quality) }))
    .sort((a, b) => a.cost_usd - b.cost_usd);
  const of = (kind) => placed.filter((p) => p.kind === kind);
  const mix = mixed(of("mix")).map((p) => ({ x: scaleX(p.cost_usd), y: scaleY(p.quality) }));
  const lines = [mix, of("router")];
  const crowded = of("router").length > CROWDED;

  const root = svg("svg", {
    class: "chart frontier", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0,
    role: "img",
    "aria-label": "Quality against cost of each target, of mixes, of the router and of the " +
      "oracle. Left and right arrows read the points; the same figures are in the table below.",
  });
  drawAxes(root, scaleX, scaleY, domain, frame);
  lines.forEach((line, k) => root.append(curve(line, ["mix", "router"][k])));
  for (const kind of ["router", "single", "oracle"]) {
    root.append(...of(kind).map((p) => marker(p, p.x, p.y, crowded)));
  }
  drawLabels(root, placed, lines, frame, measurer(holder));
  readable(root, placed, readout);
  holder.replaceChildren(root);
}

/** The figures of the chart as rows of a table. */
export function frontierRows(points) {
  return points.map((p) =>
    el("tr", {},
      el("th", { scope: "row" }, p.label || KINDS[p.kind] || ""),
      el("td", {}, KINDS[p.kind] ?? p.kind),
      el("td", { class: "number" }, format.quality(p.quality)),
      el("td", { class: "number" }, p.cost_usd === null ? format.DASH : price(p)),
    ),
  );
}
