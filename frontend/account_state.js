/* Who is signed in here, and what they have: the one value that the views of accounts read. */

import { json } from "/api.js";
import { redraw } from "/drawing.js";
import { remember } from "/preferences.js";

/**
 * `/account` of the node. Amounts are decimal text.
 * @typedef {{record: number, amount: string, since: number, until: number, note: string}} Hold
 * @typedef {{account: string, role: string, asset: string, scale: number, balance: string, held: string, available: string, holds: Hold[]}} Funds
 */

export const account = {
  /** Where people sign in, by the node's configuration. */
  origin: "",
  /** Chains that a wallet may be on, by number (EIP-155). @type {number[]} */
  chains: [],
  /** Who is signed in. @type {Session | null} */
  session: null,
  /** @type {Funds | null} */
  funds: null,
};

/** @param {Session} session */
export function takeSession(session) {
  account.origin = session.origin ?? account.origin;
  account.chains = session.chain_ids ?? account.chains;
  const was = account.session?.account;
  account.session = session.signed_in ? session : null;
  if (account.session?.account !== was) account.funds = null;
  redraw();
}

/** Other tabs of this browser have the same session: they ask again whose it is. */
export function tellOtherTabs() {
  remember("session", String(Date.now()));
}

/** Asks the node whose session this is; what it does not answer changes nothing. */
export async function readSession() {
  await json("/auth/session").then(takeSession, () => {});
}

/** @param {string} path @param {object} body @param {string} [method] @returns {Promise<any>} */
export function send(path, body, method = "POST") {
  return json(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/** What there is to spend. A node whose books do not answer leaves it unknown. */
export async function readFunds() {
  const who = account.session?.account;
  if (who === undefined) return;
  const funds = await json("/account").catch(() => null);
  if (account.session?.account === who) account.funds = funds;
  redraw();
}

/** @param {boolean} [everywhere] */
export async function signOut(everywhere = false) {
  await send("/auth/logout", { everywhere });
  forgetSession();
  tellOtherTabs();
}

/** Nobody is signed in here, whatever the node thinks. */
export function forgetSession() {
  takeSession({ accounts: true, signed_in: false, origin: account.origin, chain_ids: account.chains });
}

/** 0x12345678…cdef of an account's name. @param {string} name */
export function brief(name) {
  const address = name.slice(name.lastIndexOf(":") + 1);
  return `${address.slice(0, 6)}…${address.slice(-4)}`;
}
