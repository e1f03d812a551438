/* Amounts of money: decimal text in, exact integers inside, text as the chosen language writes it out. And two signs. */

import { html, svg } from "/vendor/lit-html/lit-html.js";
import { language } from "/i18n.js";

const PER = 1_000_000n; // tokens that a price is for

/** "1.5" of an asset with 8 digits as 150000000n. @param {string} amount @param {number} scale */
export function unitsOf(amount, scale) {
  const [, minus, whole, part = ""] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(amount) ?? [];
  if (whole === undefined || part.length > scale) throw new RangeError(`amount: ${amount}`);
  const units = BigInt(whole + part.padEnd(scale, "0"));
  return minus ? -units : units;
}

/** @param {bigint} units @param {number} scale */
export function amountOf(units, scale) {
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, "0");
  return `${units < 0n ? "-" : ""}${digits.slice(0, digits.length - scale)}.${digits.slice(digits.length - scale)}`;
}

/** @param {string} one @param {string} other @param {number} scale */
export const plus = (one, other, scale) => amountOf(unitsOf(one, scale) + unitsOf(other, scale), scale);

/**
 * What so many tokens cost: multiplied first, rounded once, up, as the node does.
 * @param {{prompt_per_million: string, completion_per_million: string}} price
 * @param {number} prompt
 * @param {number} completion
 * @param {number} scale
 */
export function costOf(price, prompt, completion, scale) {
  return amountOf(perMillion(unitsOf(price.prompt_per_million, scale), unitsOf(price.completion_per_million, scale), prompt, completion), scale);
}

/** The same in smallest units. @param {bigint} read @param {bigint} written @param {number} prompt @param {number} completion */
export function perMillion(read, written, prompt, completion) {
  return (read * BigInt(prompt) + written * BigInt(completion) + PER - 1n) / PER;
}

/** "0.00012300" and USD as "$0.000123". @param {string} amount @param {string} asset @param {Intl.NumberFormatOptions} [options] */
export function money(amount, asset, options = {}) {
  const style = /** @type {const} */ ({ style: "currency", currency: asset, currencyDisplay: "narrowSymbol", minimumFractionDigits: 2, maximumFractionDigits: 8 });
  // Text keeps every digit; numbers would lose those of large amounts.
  return new Intl.NumberFormat(language(), { ...style, ...options }).format(/** @type {any} */ (amount));
}

const SIGNS = {
  person: svg`<circle cx="12" cy="8.5" r="4"/><path d="M4.5 20c.8-4 3.8-6 7.5-6s6.7 2 7.5 6"/>`,
  receipt: svg`<path d="M6 3.5h12v17l-2.4-1.6-2.4 1.6-2.4-1.6-2.4 1.6L6 20.5zM9 8h6M9 11.5h6M9 15h3.5"/>`,
  key: svg`<circle cx="8" cy="15.5" r="4"/><path d="M11 12.5 19.5 4M16 7.5l2.5 2.5M13.5 10l2 2"/>`,
};

/** @param {keyof typeof SIGNS} name */
export function sign(name) {
  return html`<svg class=${`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">${SIGNS[name]}</svg>`;
}
