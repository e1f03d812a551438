/* An answer's receipts as a person reads them: fetched once the books are sealed, kept with the answer, checked here, and saved as files. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { ApiError, call } from "/api.js";
import { copyButton } from "/copy.js";
import { dialogView } from "/dialog.js";
import { redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { amountOf, money } from "/money.js";
import { dateTime, wholeNumber } from "/numbers.js";
import { stepView, verdictView } from "/proof_view.js";
import { outputText, ReceiptProof, SCALE } from "/receipt.js";
import { state } from "/state.js";
import { keepTurn } from "/talk.js";

/**
 * @typedef {import("/turn.js").Turn} Turn
 * @typedef {{turn: Turn, at: number, proof: ReceiptProof, failed: string, isWaiting: boolean}} View an answer and which of its receipts
 */

const COMMAND = "blyan receipt verify receipt-….json --request … --output … --salt …";
const ASK_AGAIN_MS = 1500;
const TRIES_MAX = 20;

/** @type {View | null} */
let shown = null;

/** @param {Turn} turn @param {number} [at] which of its receipts */
export function showReceipt(turn, at = 0) {
  shown = { turn, at, proof: new ReceiptProof(redraw), failed: "", isWaiting: false };
  state.dialog = "receipt";
  redraw();
  void fetchAndCheck(shown);
}

/** @param {View} view */
const partOf = ({ turn, at }) => /** @type {ReceiptPart} */ (turn.bill?.receipts[at]);

/** @param {View} view */
const outputOf = (view) => {
  const { text, thought } = partOf(view);
  return outputText(view.turn.text.slice(...text), view.turn.thought.slice(...thought));
};

/** @param {View} view */
async function fetchAndCheck(view) {
  const part = partOf(view);
  for (let tries = 1; part.file === undefined; tries += 1) {
    try {
      part.file = await (await call(`/receipts/${part.id}`, {})).text();
      keepTurn(view.turn);
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      view.isWaiting = failure.code === "not_yet" && tries < TRIES_MAX;
      view.failed = view.isWaiting ? "" : [failure.message, failure.hint].filter(Boolean).join(" ") || failure.code;
      redraw();
      if (!view.isWaiting) return;
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
      if (shown !== view || state.dialog !== "receipt") return;
    }
  }
  view.isWaiting = false;
  await view.proof.run(part.file, { request: part.request, output: outputOf(view), salt: part.salt, amount: part.amount });
}

/** @param {string} name @param {string} text */
function saveFile(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @param {View} view */
function verdictOf({ proof, failed, isWaiting }) {
  if (failed !== "") return verdictView("open", t("receipt.unread"), failed);
  if (isWaiting) return verdictView("run", t("receipt.soon"), t("receipt.soon.next"));
  const { verdict, failed: step } = proof;
  if (verdict === "bad") return verdictView("bad", t("receipt.bad", { step: t(`receipt.${step?.id}`) }), t("receipt.bad.next"));
  if (verdict === "open") return verdictView("open", t("receipt.some"), t("receipt.some.next"));
  return verdict === "ok" ? verdictView("ok", t("receipt.good"), t("receipt.good.next")) : verdictView("run", t("receipt.run"), "");
}

/** @param {View} view */
function factsView(view) {
  const { file } = view.proof;
  const part = partOf(view);
  const row = (/** @type {"model" | "tokens" | "time" | "id" | "salt"} */ key, /** @type {unknown} */ value) =>
    html`<dt>${t(`receipt.${key}.fact`)}</dt><dd data-testid=${`receipt-${key}`}>${value}</dd>`;
  if (file === null) return nothing;
  const { receipt } = file;
  const tokens = t("receipt.tokens", { read: wholeNumber(receipt.prompt_tokens), written: wholeNumber(receipt.completion_tokens) });
  return html`<dl class="facts-list">
    ${row("model", receipt.model)} ${row("tokens", tokens)} ${row("time", dateTime(receipt.time))} ${row("id", receipt.id)}
    ${row("salt", html`${part.salt} ${copyButton(() => part.salt)}`)}
  </dl>`;
}

/** @param {View} view */
function savesView(view) {
  const { file, request, id } = partOf(view);
  const save = (/** @type {"file" | "request" | "output"} */ what, /** @type {string | null | undefined} */ text) =>
    html`<button type="button" class=${what === "file" ? "button send" : "button"} data-testid=${`save-${what}`} ?disabled=${!text}
      @click=${() => saveFile(`${what === "file" ? "receipt" : what}-${id}.json`, text ?? "")}>${t(`receipt.save.${what}`)}</button>`;
  return html`<div class="sheet-actions">
      ${save("file", file)} ${save("request", request)} ${save("output", outputOf(view))}
      <button type="button" class="button" data-testid="check-again" ?disabled=${view.proof.isBusy} @click=${() => showReceipt(view.turn, view.at)}>${t("proof.again")}</button>
    </div>
    <p class="quiet-text">${t("receipt.offline")} <code>${COMMAND}</code></p>`;
}

export function receiptView() {
  const view = shown;
  if (view === null) return nothing;
  const { turn, at, proof } = view;
  const receipts = turn.bill?.receipts ?? [];
  const charged = proof.file === null ? partOf(view).amount : amountOf(BigInt(proof.file.receipt.charged), SCALE);
  const body = html`<div class="receipt">
    <p class="receipt-amount" data-testid="receipt-amount">${money(charged, turn.bill?.asset ?? "USD")}</p>
    ${receipts.length < 2
      ? nothing
      : html`<p class="tabs">${receipts.map((_, number) => html`<button type="button" class="tab" aria-pressed=${number === at ? "true" : "false"} @click=${() => showReceipt(turn, number)}>${number + 1}</button>`)}</p>`}
    ${verdictOf(view)} ${savesView(view)} ${factsView(view)}
    <ol class="steps">
      ${proof.steps.map((step) => stepView(step, t(`receipt.${step.id}`), ""))}
    </ol>
    <p class="quiet-text limits">${t("receipt.limits")}</p>
  </div>`;
  return dialogView(t("receipt.open"), body, "receipt-sheet");
}
