/** How the playground says who asks: by a virtual key where one was given, kept in this tab alone. */

const NAME = "wye:key";
const JSON_TYPE = { "content-type": "application/json" };

let inMemory = null;
let needed = false;

/** Say whether the gateway answers with a virtual key alone: then nothing else is worth sending. */
export function keyNeeded(yes) {
  needed = yes;
}

export function givenKey() {
  try {
    return sessionStorage.getItem(NAME) ?? inMemory;
  } catch {
    return inMemory;
  }
}

export function keepKey(key) {
  inMemory = key || null;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // No storage: the key lasts as long as the page.
  }
}

/**
 * Options of a request as a client makes it. A key goes without the browser's own credentials: the
 * answer to a wrong one must not open the browser's login, which is the administrator's.
 */
export function asClient() {
  const key = givenKey();
  if (!key) return { headers: JSON_TYPE, credentials: needed ? "omit" : "same-origin" };
  return { headers: { ...JSON_TYPE, authorization: `Bearer ${key}` }, credentials: "omit" };
}
