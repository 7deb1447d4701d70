/** Reading a chart point by point: with the pointer, or with the left and right arrow keys. */

/**
 * Let `root` be explored.
 *
 * `size` is the number of points in reading order; `nearest(x, y)` the index of the point under a
 * place of the chart, or -1; `enter(index)` shows a point, `leave()` shows none.
 */
export function explore(root, { size, nearest, enter, leave }) {
  let at = -1;
  const choose = (index) => {
    at = index;
    if (index < 0) leave();
    else enter(index);
  };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    choose(nearest(event.clientX - box.left, event.clientY - box.top));
  });
  root.addEventListener("pointerleave", () => choose(-1));
  root.addEventListener("blur", () => choose(-1));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    if (at < 0) choose(step > 0 ? 0 : size - 1);
    else choose(Math.min(Math.max(at + step, 0), size - 1));
  });
}
