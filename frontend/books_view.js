/* What somebody has on this node, in one dialog: balance, holds, statement, API keys, sessions. And the door to receipts. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account, readFunds, signOut } from "/account_state.js";
import { keysOf, keysSection } from "/api_keys.js";
import { copyButton } from "/copy.js";
import { closeDialog, dialogView } from "/dialog.js";
import { redraw } from "/drawing.js";
import { addWords, t } from "/i18n.js";
import { noNode } from "/models.js";
import { money } from "/money.js";
import { receiptView, showReceipt } from "/receipt_view.js";
import { state } from "/state.js";
import { momentOf, readStatement, statementSection } from "/statement.js";
import { booksWords } from "/words_books.js";

addWords(booksWords);

export function showAccount() {
  state.dialog = "account";
  redraw();
  void Promise.all([readFunds(), readStatement(), keysOf()]);
}

/** @param {import("/turn.js").Turn} turn */
export function showReceiptOf(turn) {
  showReceipt(turn);
}

/** @param {boolean} everywhere */
async function leave(everywhere) {
  closeDialog();
  await signOut(everywhere).catch(noNode);
}

function fundsView() {
  const { funds } = account;
  if (funds === null) return html`<p class="quiet-text" data-testid="no-funds">${t("account.unknown")}</p>`;
  const { asset, available, balance, held } = funds;
  const figure = (/** @type {"available" | "balance" | "held"} */ name, /** @type {string} */ amount) =>
    html`<div class=${name}><dt>${t(`account.${name}`)}</dt><dd data-testid=${name} data-amount=${amount}>${money(amount, asset)}</dd></div>`;
  return html`<dl class="funds">${figure("available", available)} ${figure("balance", balance)} ${figure("held", held)}</dl>
    ${/[1-9]/.test(available) ? nothing : html`<p class="quiet-text" data-testid="credit">${t("account.credit")}</p>`} ${holdsView(funds)}`;
}

/** @param {import("/account_state.js").Funds} funds */
function holdsView({ holds, asset }) {
  if (holds.length === 0) return nothing;
  return html`<h3>${t("account.holds")}</h3>
    <ul class="holds" data-testid="holds">
      ${holds.map(
        ({ amount, until, note }) => html`<li><b>${money(amount, asset)}</b> <span dir="auto">${note}</span>
          <span class="quiet-text">${t("account.until", { time: momentOf(until) })}</span></li>`,
      )}
    </ul>`;
}

function accountView() {
  const { session } = account;
  if (session === null) return nothing;
  const name = session.account ?? "";
  const body = html`<div class="account">
    <p class="account-name">
      <code data-testid="account-name">${name}</code>${copyButton(() => name)}
      ${session.role === "operator" ? html`<span class="badge">${t("account.operator")}</span>` : nothing}
    </p>
    ${fundsView()} ${statementSection()} ${keysSection()}
    <footer>
      <button type="button" class="button quiet" data-testid="sign-out-everywhere" @click=${() => leave(true)}>${t("account.out.everywhere")}</button>
      <button type="button" class="button" data-testid="sign-out" @click=${() => leave(false)}>${t("account.out")}</button>
    </footer>
  </div>`;
  return dialogView(t("account.title"), body, "account-sheet");
}

export function booksDialog() {
  if (state.dialog === "account") return accountView();
  return state.dialog === "receipt" ? receiptView() : nothing;
}
