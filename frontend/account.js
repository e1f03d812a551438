/*
 * Accounts on this page: loaded where the node has them, and attached where places.js says. The larger views, account and receipts,
 * are loaded when they are first wanted.
 */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account, brief, readFunds, readSession, takeSession } from "/account_state.js";
import { FAULTS } from "/alert.js";
import { costView, noteView, take, write } from "/cost.js";
import { redraw } from "/drawing.js";
import { addWords, t } from "/i18n.js";
import { noNode } from "/models.js";
import { money, sign } from "/money.js";
import { answerActions, headerTools, paid } from "/places.js";
import { openSignIn, watchAgain } from "/sign_in.js";
import { signInView } from "/sign_in_view.js";
import { state } from "/state.js";
import { promptBox } from "/talk.js";
import { findWallets } from "/wallets.js";
import { accountWords } from "/words_account.js";

/** @typedef {typeof import("/books_view.js")} Books */

/** Faults that only nodes with accounts have, as in alert.js. @type {typeof FAULTS} */
const MORE_FAULTS = {
  unauthenticated: ["signin", "signin", "retry"],
  insufficient_funds: ["funds", "account", "settings", "retry"],
  rate_limited: ["quota", "retry"],
  quote_expired: ["quote", "retry"],
  not_yet: ["soon", "retry"],
};

/** @type {Books | null} */
let books = null;

/** @param {(books: Books) => void} show */
async function withBooks(show) {
  try {
    books ??= await import("/books_view.js");
  } catch {
    return noNode();
  }
  show(books);
}

const openAccount = () => (account.session === null ? openSignIn() : withBooks(({ showAccount }) => showAccount()));

function accountDoor() {
  const { session, funds } = account;
  if (session === null) {
    return html`<button type="button" class="button tool sign-in" data-testid="sign-in" aria-label=${t("signin.title")} title=${t("signin.title")} @click=${openSignIn}>
      ${sign("person")}<span class="tool-word">${t("signin.title")}</span>
    </button>`;
  }
  const name = brief(session.account ?? "");
  const words = t("account.open", { account: name });
  return html`<button type="button" class="button tool" data-testid="account" aria-label=${words} title=${words} @click=${openAccount}>
    ${sign("person")}<span class="tool-word">${funds === null ? name : money(funds.available, funds.asset)}</span>
  </button>`;
}

/** @param {import("/turn.js").Turn} turn */
function receiptDoor(turn) {
  if (turn.bill === null || turn.bill.receipts.length === 0) return nothing;
  const words = t("receipt.open");
  return html`<button type="button" class="icon-button" data-testid="receipt" aria-label=${words} title=${words}
    @click=${() => withBooks(({ showReceiptOf }) => showReceiptOf(turn))}>${sign("receipt")}</button>`;
}

function dialog() {
  if (state.dialog === "signin") return signInView();
  return books === null ? nothing : books.booksDialog();
}

/** A question waits for who is not signed in: the draft stays. */
function waits() {
  if (account.session === null) openSignIn();
  return account.session === null;
}

let isBegun = false;

/** @param {Session} session as `/auth/session` says */
export function begin(session) {
  takeSession(session);
  readFunds();
  if (isBegun) return;
  isBegun = true;
  addWords(accountWords);
  Object.assign(FAULTS, MORE_FAULTS);
  Object.assign(paid, { waits, write, take, cost: costView, note: noteView, dialog, open: openSignInOr });
  headerTools.push(accountDoor);
  answerActions.push(receiptDoor);
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = "/account.css";
  document.head.append(style);
  promptBox()?.setAttribute("aria-describedby", "cost-line prompt-keys");
  findWallets(() => {
    watchAgain();
    redraw();
  });
  addEventListener("storage", ({ key }) => key === "blyan.session" && readSession().then(readFunds));
  redraw();
}

/** From an alert: the session that the node refused may be over. @param {"signin" | "account"} dialogName */
async function openSignInOr(dialogName) {
  await readSession();
  state.alert = null;
  if (dialogName === "signin" && account.session === null) openSignIn();
  else openAccount();
}
