/**
 * Figures as people read them, in the browser's own language. What is not known (null) is a dash,
 * never a zero.
 */

export const DASH = "–";
const LOCALE = navigator.language;

const unknown = (value) => value === null || value === undefined || !Number.isFinite(value);

function number(value, options) {
  return new Intl.NumberFormat(LOCALE, options).format(value).replace("-", "−");
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
  const dollars = (amount, options) => number(amount,
    { style: "currency", currency: "USD", currencyDisplay: "narrowSymbol", ...options });
  if (size === 0) return dollars(0, { maximumFractionDigits: 0 });
  if (size < 1e-7) return `${value < 0 ? "−" : ""}<${dollars(1e-7, { maximumFractionDigits: 7 })}`;
  if (size >= 1000) return dollars(value, { maximumFractionDigits: 0 });
  if (size >= 1) return dollars(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  // Prices and sums of some size have their cents; a fraction of a cent has its leading digits.
  if (size >= 0.1 && Math.abs(size * 100 - Math.round(size * 100)) < 1e-9) return dollars(value, {});
  return dollars(value, { maximumSignificantDigits: digits, maximumFractionDigits: 12 });
}

export function percent(value, digits = 1) {
  if (unknown(value)) return DASH;
  return number(value, { style: "percent", maximumFractionDigits: digits });
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

/** Time of day, with the date before it where that is not today. */
export function clock(value, withSeconds = true) {
  const date = value instanceof Date ? value : moment(value);
  if (!date) return DASH;
  const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (date.toDateString() === new Date().toDateString()) {
    const seconds = withSeconds ? { second: "2-digit" } : {};
    return date.toLocaleTimeString(LOCALE, { ...parts, ...seconds });
  }
  return date.toLocaleString(LOCALE, { month: "short", day: "numeric", ...parts });
}

/** A moment in full. */
export function full(value) {
  const date = moment(value);
  return date ? date.toLocaleString(LOCALE, { dateStyle: "medium", timeStyle: "medium" }) : DASH;
}

export function day(value) {
  const date = moment(value);
  return date ? date.toLocaleDateString(LOCALE, { dateStyle: "medium" }) : DASH;
}

/** How long ago, in the largest unit that fits. */
export function ago(value) {
  const date = moment(value);
  if (!date) return DASH;
  const past = (date.getTime() - Date.now()) / 1000;
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60]]
    .find(([, seconds]) => Math.abs(past) >= seconds) ?? ["second", 1];
  return new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto" })
    .format(Math.round(past / size), unit);
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}
