/** Figures as people read them. What is not known (null) is a dash, never a zero. */

export const DASH = "–";

const unknown = (value) => value === null || value === undefined || !Number.isFinite(value);

function number(value, options) {
  return new Intl.NumberFormat("en-US", options).format(value).replace("-", "−");
}

export function count(value) {
  if (unknown(value)) return DASH;
  return value >= 1e6
    ? number(value, { notation: "compact", maximumFractionDigits: 2 })
    : number(value, { maximumFractionDigits: 0 });
}

/** US dollars; small amounts keep their leading digits instead of rounding to nothing. */
export function money(value, digits = 3) {
  if (unknown(value)) return DASH;
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size < 1e-7) return `${sign}<$0.0000001`;
  if (size >= 1000) return `${sign}$${number(size, { maximumFractionDigits: 0 })}`;
  if (size >= 1) {
    return `${sign}$${number(size, { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  }
  return `${sign}$${number(size, { maximumSignificantDigits: digits, maximumFractionDigits: 12 })}`;
}

export function percent(value, digits = 1) {
  if (unknown(value)) return DASH;
  return `${number(value * 100, { maximumFractionDigits: digits })}%`;
}

export function quality(value) {
  if (unknown(value)) return DASH;
  return number(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

export function decimal(value, digits = 3) {
  if (unknown(value)) return DASH;
  return number(value, { maximumSignificantDigits: digits, maximumFractionDigits: 8 });
}

export function milliseconds(value) {
  if (unknown(value)) return DASH;
  if (value >= 60_000) return `${number(value / 60_000, { maximumFractionDigits: 1 })} min`;
  if (value >= 1000) return `${number(value / 1000, { maximumFractionDigits: 2 })} s`;
  return `${number(value, { maximumSignificantDigits: value < 10 ? 2 : 3 })} ms`;
}

export function seconds(value) {
  return unknown(value) ? DASH : milliseconds(value * 1000);
}

/** A moment as the API gives it: ISO 8601, or seconds since 1970. Null where it is neither. */
export function moment(value) {
  if (value === null || value === undefined || value === "") return null;
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? null : date;
}

const pad = (value) => String(value).padStart(2, "0");

/** Time of day, with the date before it where that is not today. */
export function clock(value, withSeconds = true) {
  const date = value instanceof Date ? value : moment(value);
  if (!date) return DASH;
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  const full = withSeconds ? `${time}:${pad(date.getSeconds())}` : time;
  if (date.toDateString() === new Date().toDateString()) return full;
  return `${date.toLocaleDateString("en-US", { month: "short", day: "numeric" })} ${time}`;
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}
