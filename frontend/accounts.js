/* Whether the node has accounts: then what belongs to them is loaded, and attaches itself to the page (places.js). */

import { json, unreached } from "/api.js";
import { state } from "/state.js";

/** Throws ApiError where the node, or that part of the page, cannot be reached: without it nothing can be asked. */
export async function openAccounts() {
  const session = await json("/auth/session");
  state.isFree = !session.accounts;
  if (state.isFree) return;
  const part = await import("/account.js").catch(unreached);
  part.begin(session);
}
