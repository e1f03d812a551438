/* The page's signs, drawn as lines. */

import { html, svg } from "/vendor/lit-html/lit-html.js";

const SHAPES = {
  sun: svg`<circle cx="12" cy="12" r="4"/><path d="M12 2.5v3M12 18.5v3M2.5 12h3M18.5 12h3M5.3 5.3l2.1 2.1M16.6 16.6l2.1 2.1M5.3 18.7l2.1-2.1M16.6 7.4l2.1-2.1"/>`,
  moon: svg`<path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z"/>`,
  plus: svg`<path d="M12 5v14M5 12h14"/>`,
  list: svg`<rect x="3.5" y="4.5" width="17" height="15" rx="2.5"/><path d="M9.5 4.5v15"/>`,
  experts: svg`<rect x="4" y="4" width="6" height="6" rx="1.4"/><rect x="14" y="4" width="6" height="6" rx="1.4"/><rect x="4" y="14" width="6" height="6" rx="1.4"/><circle cx="17" cy="17" r="3"/>`,
  settings: svg`<path d="M4 7h9M19 7h1M4 17h1M11 17h9"/><circle cx="16" cy="7" r="2.6"/><circle cx="8" cy="17" r="2.6"/>`,
  copy: svg`<rect x="9" y="9" width="11" height="11" rx="2.2"/><path d="M5.5 15H5a1.5 1.5 0 0 1-1.5-1.5V5A1.5 1.5 0 0 1 5 3.5h8.500A1.500 1.500 0 0 1 15 5v.5"/>`,
  check: svg`<path d="M5 12.500 10 17.500 19.500 7"/>`,
  edit: svg`<path d="M4.500 19.500l.8-3.800L16 5a1.900 1.900 0 0 1 2.700 0l.3.300a1.900 1.900 0 0 1 0 2.700L8.300 18.700z"/>`,
  again: svg`<path d="M19.500 12a7.500 7.500 0 1 1-2.300-5.400M19.500 3.500v4h-4"/>`,
  onward: svg`<path d="M5 5.500v13l8-6.500zM14 5.500v13l8-6.500z"/>`,
  trash: svg`<path d="M4.500 7h15M9.500 7V4.500h5V7M6.500 7l.8 12.500h9.400L17.500 7M10.300 10.500v5.500M13.700 10.500v5.500"/>`,
  left: svg`<path d="M14.500 6l-6 6 6 6"/>`,
  right: svg`<path d="M9.500 6l6 6-6 6"/>`,
  down: svg`<path d="M12 5v14M6 13l6 6 6-6"/>`,
  close: svg`<path d="M6 6l12 12M18 6L6 18"/>`,
  search: svg`<circle cx="10.500" cy="10.500" r="6"/><path d="M15 15l5 5"/>`,
  book: svg`<path d="M12 6.500C9.800 5 6.800 4.500 3.500 5v13.500c3.300-.500 6.300 0 8.500 1.500 2.200-1.500 5.200-2 8.500-1.500V5c-3.300-.500-6.300 0-8.500 1.500zM12 6.500V20"/>`,
  more: svg`<circle cx="5.500" cy="12" r=".9"/><circle cx="12" cy="12" r=".9"/><circle cx="18.500" cy="12" r=".9"/>`,
};

/** @param {keyof typeof SHAPES} name */
export function icon(name) {
  return html`<svg class=${`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">${SHAPES[name]}</svg>`;
}
