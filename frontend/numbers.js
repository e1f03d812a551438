/* Numbers and dates as the chosen language writes them. */

import { language } from "/i18n.js";

/** 12345 as "12,345". @param {number} value */
export function wholeNumber(value) {
  return new Intl.NumberFormat(language(), { maximumFractionDigits: 0 }).format(value);
}

/**
 * 0.0714 as "7.1%"; what is too small for that as "<0.1%".
 * @param {number} share
 * @returns {string}
 */
export function percent(share) {
  if (share > 0 && share < 0.0005) return `<${percent(0.001)}`;
  return new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 1 }).format(share);
}

/**
 * Millionths with four digits after the point: 1234567 as "1.2346".
 * @param {number} micro
 * @param {Intl.NumberFormatOptions} [options]
 */
export function fromMicro(micro, options = {}) {
  const digits = { minimumFractionDigits: 4, maximumFractionDigits: 4 };
  return new Intl.NumberFormat(language(), { ...digits, ...options }).format(micro / 1e6);
}

/** Seconds since the Unix epoch as date and time here. @param {number} seconds */
export function dateTime(seconds) {
  return new Intl.DateTimeFormat(language(), { dateStyle: "long", timeStyle: "short" }).format(new Date(seconds * 1000));
}
