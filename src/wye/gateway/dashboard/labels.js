/** Labels beside their points, none over another. */

const RADII = [11, 18, 27, 38, 52, 70];
const ANGLES = [0, 180, -90, 90, -45, 45, -135, 135, -20, 20, 160, -160].map(
  (degrees) => (degrees * Math.PI) / 180,
);

/** Area that two boxes `{ x, y, width, height }` share. */
function overlap(a, b) {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  return width > 0 && height > 0 ? width * height : 0;
}

function inside(box, frame) {
  return (
    box.x >= frame.x &&
    box.y >= frame.y &&
    box.x + box.width <= frame.x + frame.width &&
    box.y + box.height <= frame.y + frame.height
  );
}

/** The box of `width` x `height` that touches the circle of `radius` around (x, y) at `angle`. */
function boxAt({ x, y, width, height }, radius, angle) {
  const dx = Math.cos(angle);
  const dy = Math.sin(angle);
  const anchor = (part) => (Math.abs(part) < 0.3 ? 0.5 : part > 0 ? 0 : 1);
  return {
    x: x + dx * radius - anchor(dx) * width,
    y: y + dy * radius - anchor(dy) * height,
    width,
    height,
  };
}

/**
 * Place labels greedily, in the order given.
 *
 * `labels` are `{ x, y, width, height }` (pixels; the point they belong to and their size),
 * `obstacles` boxes that had better stay free (markers, curves), `frame` the box to stay in.
 * Returns for each label its box with the `radius` it was moved by, or null where no place is free
 * of other labels: a missing label is better than two that cannot be read.
 */
export function placeLabels(labels, obstacles, frame) {
  const placed = [];
  return labels.map((label) => {
    let best = null;
    let least = Infinity;
    for (const radius of RADII) {
      for (const [rank, angle] of ANGLES.entries()) {
        const box = boxAt(label, radius, angle);
        if (!inside(box, frame) || placed.some((other) => overlap(box, other) > 0)) continue;
        let cost = radius * 1.5 + rank;
        for (const obstacle of obstacles) cost += overlap(box, obstacle) * (obstacle.weight ?? 1);
        if (cost < least) {
          least = cost;
          best = { ...box, radius };
        }
      }
    }
    if (best) placed.push(best);
    return best;
  });
}
