/*
 * Signing in: a wallet is chosen, is on a chain that the node takes, and signs the message that the node wrote. And signing out when
 * the wallet goes over to another account.
 */

import { account, forgetSession, readFunds, send, signOut, takeSession, tellOtherTabs } from "/account_state.js";
import { ApiError } from "/api.js";
import { closeDialog } from "/dialog.js";
import { announce, redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { notify } from "/library.js";
import { remember, remembered } from "/preferences.js";
import { state } from "/state.js";
import { promptBox } from "/talk.js";
import { askAgain, askWallet, chainOf, hexOf, WalletFault, wallets } from "/wallets.js";

/** @typedef {import("/wallets.js").Wallet} Wallet */

/**
 * Where a sign-in stands: `choose` a wallet, waiting for it to `connect`, to go to another `chain`, or to `sign`, the node's `check`.
 * @type {{step: "choose" | "connect" | "chain" | "sign" | "check", wallet: Wallet | null, chain: number, fault: string, said: string}}
 */
export const door = { step: "choose", wallet: null, chain: 0, fault: "", said: "" };
let attempt = 0;

/** @param {Partial<typeof door>} now */
function go(now) {
  Object.assign(door, now);
  redraw();
}

export function openSignIn() {
  attempt += 1;
  state.dialog = "signin";
  askAgain();
  go({ step: "choose", wallet: null, fault: "", said: "" });
}

/** The wallet that signed in last stands first. */
export function listedWallets() {
  const last = remembered("wallet");
  return [...wallets.values()].sort((one, other) => Number(other.rdns === last) - Number(one.rdns === last));
}

/** @param {unknown} failure */
function fail(failure) {
  if (failure instanceof WalletFault) return go({ step: "choose", fault: `wallet.${failure.code}`, said: failure.message });
  if (!(failure instanceof ApiError)) throw failure;
  const fault = failure.code === "unreachable" ? "error.unreachable" : failure.code === "rate_limited" ? "error.quota" : "wallet.refused";
  return go({ step: "choose", fault, said: [failure.message, failure.hint].filter(Boolean).join("\n") });
}

/** @param {Wallet} wallet */
export async function signIn(wallet) {
  attempt += 1;
  const mine = attempt;
  /** Whether the person has gone on to something else meanwhile. */
  const isLeft = () => mine !== attempt || state.dialog !== "signin";
  go({ step: "connect", wallet, fault: "", said: "" });
  try {
    const [address] = await askWallet(wallet, "eth_requestAccounts");
    if (typeof address !== "string") throw new WalletFault("rejected", "");
    const chain = await chainOf(wallet);
    if (isLeft()) return;
    if (!account.chains.includes(chain)) return go({ step: "chain", chain });
    go({ step: "sign" });
    const { message } = await send("/auth/nonce", { address, chain_id: chain });
    if (isLeft()) return;
    const signature = await askWallet(wallet, "personal_sign", [hexOf(message), address]);
    if (isLeft()) return;
    go({ step: "check" });
    takeSession(await send("/auth/verify", { message, signature }));
    remember("wallet", wallet.rdns);
    tellOtherTabs();
    watch(wallet);
    if (state.dialog === "signin") closeDialog();
    state.alert = null;
    announce(t("signin.done"));
    promptBox()?.focus();
    await readFunds();
  } catch (failure) {
    if (!isLeft()) fail(failure);
  }
}

/** Asks the wallet to go to a chain that the node takes, and goes on. @param {number} chain */
export async function switchChain(chain) {
  const { wallet } = door;
  if (wallet === null) return;
  const mine = attempt;
  try {
    await askWallet(wallet, "wallet_switchEthereumChain", [{ chainId: `0x${chain.toString(16)}` }]);
    if (mine === attempt && state.dialog === "signin") await signIn(wallet);
  } catch (failure) {
    if (mine !== attempt) return;
    fail(failure);
    door.step = "chain";
  }
}

/** @type {WeakSet<object>} */
const watched = new WeakSet();

/** @param {unknown} address @returns {boolean} whether it is somebody, and not who is signed in */
const isAnother = (address) => typeof address === "string" && address.toLowerCase() !== account.session?.address?.toLowerCase();

/** Who takes another account in the wallet that signed in is signed out here: what follows would be paid by the former one. @param {Wallet} wallet */
function watch(wallet) {
  const { provider, rdns } = wallet;
  if (watched.has(provider) || provider.on === undefined) return;
  watched.add(provider);
  provider.on("accountsChanged", (addresses) => {
    if (account.session !== null && remembered("wallet") === rdns && isAnother(addresses?.[0])) leave();
  });
}

async function leave() {
  await signOut().catch(forgetSession);
  notify(t("signin.switched"));
}

/** After a reload: the wallet that signed in, once it is found. It may have another account by now, or be locked, which means nothing. */
export async function watchAgain() {
  const last = remembered("wallet");
  for (const wallet of wallets.values()) {
    if (account.session === null || wallet.rdns !== last || watched.has(wallet.provider)) continue;
    watch(wallet);
    const [address] = await askWallet(wallet, "eth_accounts").catch(() => []);
    if (account.session !== null && isAnother(address)) await leave();
  }
}
