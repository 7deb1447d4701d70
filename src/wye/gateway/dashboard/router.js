/** Pages by address: `#/NAME`, `#/NAME/REST`, each with `?parameters`. */

export const FIRST = "overview";

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

/** The place that an address names: `{ name, rest, query }`; the first page for an empty one. */
export function placeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [name, ...rest] = path.split("/");
  return {
    name: decoded(name) || FIRST,
    rest: rest.length ? decoded(rest.join("/")) : null,
    query: new URLSearchParams(query),
  };
}

/** The address of a place; parameters without a value are left out. */
export function address(name, rest = null, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== "");
  const parameters = new URLSearchParams(given).toString();
  const path = rest === null ? name : `${name}/${encodeURIComponent(rest)}`;
  return `#/${path}${parameters ? `?${parameters}` : ""}`;
}

export const here = () => placeOf(location.hash);

/** The address of a decision, over the list as it is filtered at present. */
export function decisionAddress(id) {
  const now = here();
  return address("decisions", id, now.name === "decisions" ? Object.fromEntries(now.query) : {});
}
