/* The statement of an account: what was moved, newest first, a page at a time; the whole of it as CSV. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account } from "/account_state.js";
import { ApiError, json } from "/api.js";
import { redraw } from "/drawing.js";
import { language, t } from "/i18n.js";
import { money } from "/money.js";

/** @typedef {{record: number, time: number, kind: string, key: string, note: string, amount: string, held: string, balance: string}} Line */

const PAGE = 20;

/** @type {{lines: Line[], next: number | null, isReading: boolean, failed: string}} */
let statement = { lines: [], next: null, isReading: false, failed: "" };

/** The newest lines, or those that follow what is shown. @param {number | null} [before] */
export async function readStatement(before = null) {
  const held = before === null ? [] : statement.lines;
  const who = account.session?.account;
  statement = { ...statement, isReading: true, failed: "" };
  redraw();
  try {
    const { entries, next } = await json(`/account/statement?limit=${PAGE}${before === null ? "" : `&before=${before}`}`);
    if (who !== account.session?.account) return;
    statement = { lines: [...held, ...entries], next: next ?? null, isReading: false, failed: "" };
  } catch (failure) {
    if (!(failure instanceof ApiError)) throw failure;
    statement = { lines: held, next: before, isReading: false, failed: failure.message || failure.code };
  }
  redraw();
}

/** Unix seconds as a short date and time here. @param {number} seconds */
export function momentOf(seconds) {
  return new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds * 1000));
}

/** @param {string} amount @param {string} asset */
const changed = (amount, asset) => (/[1-9]/.test(amount) ? money(amount, asset, { signDisplay: "exceptZero" }) : "");

/** Of an answer of whoever asked, a program too. @param {string} key */
function receiptLink(key) {
  const [, id] = /^receipt ([0-9a-f]{32})$/.exec(key) ?? [];
  return id === undefined ? nothing : html`<a class="link" data-testid="receipt-link" href=${`/receipts/${id}`} download=${`receipt-${id}.json`}>${t("receipt.open")}</a>`;
}

/** @param {Line} line @param {string} asset */
function lineView({ time, kind, key, note, amount, held, balance }, asset) {
  const words = note === "for newcomers" ? t("kind.new") : note; // the node's own note
  return html`<tr data-testid="statement-line" data-kind=${kind}>
    <td>${momentOf(time)}</td>
    <td title=${key}>${t(`kind.${kind}`)} ${receiptLink(key)}<span class="quiet-text" dir="auto">${words}</span></td>
    <td class="number">${changed(amount, asset)}</td>
    <td class="number">${/[1-9]/.test(held) ? money(held, asset) : nothing}</td>
    <td class="number">${money(balance, asset)}</td>
  </tr>`;
}

export function statementSection() {
  const { lines, next, isReading, failed } = statement;
  const asset = account.funds?.asset ?? "USD";
  const more = next;
  return html`<section>
    <h3>${t("statement.title")}</h3>
    ${lines.length === 0
      ? html`<p class="quiet-text" data-testid="statement-none">${failed === "" ? t(isReading ? "statement.reading" : "statement.none") : t("statement.failed", { said: failed })}</p>`
      : html`<div class="wide" tabindex="0" role="region" aria-label=${t("statement.title")}>
          <table data-testid="statement">
            <thead>
              <tr>
                <th scope="col">${t("statement.time")}</th>
                <th scope="col">${t("statement.what")}</th>
                <th scope="col" class="number">${t("statement.amount")}</th>
                <th scope="col" class="number">${t("account.held")}</th>
                <th scope="col" class="number">${t("account.balance")}</th>
              </tr>
            </thead>
            <tbody>
              ${lines.map((line) => lineView(line, asset))}
            </tbody>
          </table>
        </div>`}
    <p class="section-actions">
      ${more === null || lines.length === 0
        ? nothing
        : html`<button type="button" class="button small" data-testid="statement-more" ?disabled=${isReading} @click=${() => readStatement(more)}>${t("statement.more")}</button>`}
      ${failed === "" ? nothing : html`<button type="button" class="button small" @click=${() => readStatement(more)}>${t("remedy.retry")}</button>`}
      ${lines.length === 0 ? nothing : html`<a class="link" data-testid="csv" href="/account/statement?format=csv" download="statement.csv">${t("statement.csv")}</a>`}
    </p>
  </section>`;
}
