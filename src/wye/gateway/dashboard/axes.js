/** Scales and ticks of the charts. A scale maps a value of `domain` to a pixel of `range`. */

/** A linear scale. */
export function linear([low, high], [from, to]) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

/** A logarithmic scale; the domain is positive. */
export function logarithmic([low, high], range) {
  const scale = linear([Math.log10(low), Math.log10(high)], range);
  return (value) => scale(Math.log10(value));
}

/** The least round step (1, 2 or 5 times a power of ten) of which at most `most` fit in `span`. */
function roundStep(span, most) {
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 5, 10].find((f) => f * power >= raw * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** Round values from `low` to `high`, about `most` of them. */
export function linearTicks(low, high, most) {
  if (!(high > low)) return [low];
  const step = roundStep(high - low, most);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

/** Powers of ten from `low` to `high`; 2 and 5 times them as well where there are few. */
export function logTicks(low, high, most) {
  const first = Math.floor(Math.log10(low)) - 1;
  const last = Math.ceil(Math.log10(high)) + 1;
  for (const factors of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = first; power <= last; power += 1) {
      for (const factor of factors) {
        const tick = Number((factor * 10 ** power).toPrecision(12));
        if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
      }
    }
    if (ticks.length <= most) return ticks;
  }
  const decades = linearTicks(Math.log10(low), Math.log10(high), most).filter(Number.isInteger);
  return decades.map((power) => 10 ** power);
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const STEPS = [
  ...[10, 30].map((n) => n * SECOND),
  ...[1, 2, 5, 10, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR),
  ...[1, 2, 7, 14, 30, 90, 365].map((n) => n * DAY),
];

/** Round local times from `low` to `high` (milliseconds), at most `most` of them, with labels. */
export function timeTicks(low, high, most) {
  const step = STEPS.find((s) => (high - low) / s <= most) ?? STEPS.at(-1);
  const shift = new Date(low).getTimezoneOffset() * MINUTE;
  const ticks = [];
  for (let t = Math.ceil((low - shift) / step) * step + shift; t <= high; t += step) {
    ticks.push({ time: t, label: timeLabel(new Date(t), step) });
  }
  return ticks;
}

function timeLabel(date, step) {
  const day = date.toLocaleDateString(navigator.language, { month: "short", day: "numeric" });
  if (step >= DAY) return day;
  const midnight = date.getHours() === 0 && date.getMinutes() === 0;
  if (midnight) return day;
  const two = (value) => String(value).padStart(2, "0");
  const minute = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return step < MINUTE ? `${minute}:${two(date.getSeconds())}` : minute;
}
