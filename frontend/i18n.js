/* The page's words in English and Korean. Messages and hints that the node sends are shown as they come. */

import { remember, remembered } from "/preferences.js";
import { words } from "/words.js";

/**
 * Keys by name, and those of families whose last part is a value.
 * @typedef {keyof typeof words | keyof typeof import("/words_proof.js").proofWords | keyof typeof import("/words_account.js").accountWords | keyof typeof import("/words_books.js").booksWords | keyof typeof import("/words_nodes.js").nodesWords | `${"state" | "block" | "step" | "proof" | "story" | "error" | "remedy" | "wallet" | "chain" | "kind" | "scope" | "receipt"}.${string}`} WordKey
 */

/** @typedef {"en" | "ko"} Language */

/** @returns {Language} */
function preferred() {
  const saved = remembered("lang");
  if (saved === "en" || saved === "ko") return saved;
  return navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

let current = preferred();
/** In English, in Korean. @type {Record<string, [string, string]>} */
const dictionary = { ...words };

export function language() {
  return current;
}

export function toggleLanguage() {
  current = current === "en" ? "ko" : "en";
  remember("lang", current);
}

/** More words, of a part of the page that is loaded when it is needed. @param {Record<string, [string, string]>} more */
export function addWords(more) {
  Object.assign(dictionary, more);
}

/**
 * The words for `key`, with `{name}` replaced by `values.name`. A missing key is our mistake, and throws.
 * @param {WordKey} key
 * @param {Record<string, unknown>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const found = dictionary[key];
  if (found === undefined) throw new Error(`no words for ${key}`);
  return found[current === "en" ? 0 : 1].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
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
