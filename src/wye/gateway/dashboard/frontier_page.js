/** The frontier of the last training, or of the judged answers where none is known. */

import * as api from "./api.js";
import { byId, setText, show, whenChanged } from "./dom.js";
import { drawable, drawFrontier, frontierRows } from "./frontier.js";

const NO_REPORT = "No report yet: train a router with `wye train` to see what it would save.";
// It changes with trainings and judgements, and may take long.
const SELDOM_MS = 30_000;

/** The page at `#/frontier`. */
export function frontierPage() {
  let points = [];
  let read = 0;
  const draw = () => {
    const holder = byId("frontier");
    if (drawable(points).length && holder.clientWidth) {
      drawFrontier(holder, points, holder.clientWidth, byId("frontier-readout"));
    }
  };
  const showPoints = whenChanged((found) => {
    points = found.points ?? [];
    const some = drawable(points).length > 0;
    show(byId("frontier"), some);
    show(byId("frontier-empty"), !some);
    show(byId("frontier-legend"), some);
    show(byId("frontier-table"), points.length > 0);
    setText(byId("frontier-note"), some ? found.note ?? "" : "");
    setText(byId("frontier-empty"), found.note || NO_REPORT);
    byId("frontier-rows").replaceChildren(...frontierRows(points));
    draw();
  });
  return {
    async refresh() {
      if (Date.now() - read < SELDOM_MS) {
        await api.names();
        return;
      }
      showPoints(await api.frontier());
      read = Date.now();
    },
    resize: draw,
  };
}
