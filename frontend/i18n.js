/* The page's words in English and Korean. Messages and hints that the node sends are shown as they come. */

import { remember, remembered } from "/preferences.js";

/**
 * Keys by name, and those of families whose last part is a value.
 * @typedef {keyof typeof import("/words_en.js").words | keyof typeof import("/i18n_proof.js").proofWords.en | `${"state" | "block" | "step" | "proof" | "story" | "error" | "remedy"}.${string}`} WordKey
 */

/** @typedef {"en" | "ko"} Language */
/** @typedef {Record<string, string>} Words */

/** @returns {Language} */
function preferred() {
  const saved = remembered("lang");
  if (saved === "en" || saved === "ko") return saved;
  return navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

let current = preferred();
/** Of parts of the page that were loaded since. @type {Record<Language, Words>[]} */
const added = [];
let dictionary = await read(current);

/** Only the language that is read is loaded. @param {Language} language @returns {Promise<Words>} */
async function read(language) {
  const { words } = await import(`/words_${language}.js`);
  return { ...words };
}

export function language() {
  return current;
}

export async function toggleLanguage() {
  const next = current === "en" ? "ko" : "en";
  dictionary = Object.assign(await read(next), ...added.map((words) => words[next]));
  current = next;
  remember("lang", current);
}

/**
 * More words, of a part of the page that is loaded when it is needed.
 * @param {Record<Language, Words>} words
 */
export function addWords(words) {
  added.push(words);
  Object.assign(dictionary, words[current]);
}

/**
 * The words for `key`, with `{name}` replaced by `values.name`. A missing key is our mistake, and throws.
 * @param {WordKey} key
 * @param {Record<string, unknown>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const words = dictionary[key];
  if (words === undefined) throw new Error(`no words for ${key} in ${current}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** 8100000 as "8.1M" or "810만". @param {number} value */
export function compactNumber(value) {
  return new Intl.NumberFormat(current, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/** Bytes in binary units: "864 KiB". @param {number} bytes */
export function byteSize(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const step = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log2(bytes) / 10) : 0);
  const value = new Intl.NumberFormat(current, { maximumFractionDigits: 1 }).format(bytes / 1024 ** step);
  return `${value} ${units[step]}`;
}
