/* The page's words in English and Korean. Messages and hints that the node sends are shown as they come. */

import { remember, remembered } from "/preferences.js";
import { en } from "/words_en.js";
import { ko } from "/words_ko.js";

/**
 * Keys by name, and those of families whose last part is a value.
 * @typedef {keyof typeof en | keyof typeof import("/i18n_proof.js").proofWords.en | `${"state" | "block" | "step" | "proof" | "story" | "error" | "remedy"}.${string}`} WordKey
 */

/** @type {Record<"en" | "ko", Record<string, string>>} */
const dictionaries = { en, ko };

/** @returns {"en" | "ko"} */
function preferred() {
  const saved = remembered("lang");
  if (saved === "en" || saved === "ko") return saved;
  return navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

let current = preferred();

export function language() {
  return current;
}

export function toggleLanguage() {
  current = current === "en" ? "ko" : "en";
  remember("lang", current);
}

/**
 * More words, of a part of the page that is loaded when it is needed.
 * @param {Record<"en" | "ko", Record<string, string>>} words
 */
export function addWords(words) {
  Object.assign(dictionaries.en, words.en);
  Object.assign(dictionaries.ko, words.ko);
}

/**
 * The words for `key`, with `{name}` replaced by `values.name`. A missing key is our mistake, and throws.
 * @param {WordKey} key
 * @param {Record<string, unknown>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const words = dictionaries[current][key];
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
