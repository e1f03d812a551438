/*
 * What an answer costs: before, at most, as the node quotes it; while it comes, price × tokens; after, what was charged.
 *
 * A quote is asked for a draft that rests for a moment. Its price holds for the question that it was asked for; an answer without one
 * costs the price of now, and is counted with the last price that is known.
 */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account, readFunds, send } from "/account_state.js";
import { redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { costOf, money, plus, unitsOf } from "/money.js";
import { wholeNumber } from "/numbers.js";
import { openSignIn } from "/sign_in.js";
import { isBusy, state } from "/state.js";

/**
 * @typedef {import("/turn.js").Turn} Turn
 * @typedef {{prompt_per_million: string, completion_per_million: string}} Price
 * @typedef {{free?: boolean, id: string, model: string, asset: string, scale: number, price: Price, prompt_tokens: number,
 *   max_tokens: number, amount_max: string, expires: number}} Quote
 */

const DRAFT_CHARS_MIN = 4;
const DRAFT_CHARS_MAX = 100_000;
const RESTS_MS = 500;
const CHARGED_AFTER_MS = 3000;
const REQUEST_CHARS_MAX = 256 * 1024;
const EXPIRY_MARGIN_MS = 2000;

/** The newest quote, and what it was asked for. @type {{asked: string, quote: Quote | null}} */
let known = { asked: "", quote: null };
let wanted = "";
/** @type {ReturnType<typeof setTimeout> | undefined} */
let resting;
/** What runs, by answer. @type {WeakMap<Turn, {quote: Quote | null, tokens: number, before: Bill | null, part: ReceiptPart}>} */
const counting = new WeakMap();

/** What a quote is asked for; what the node is told of the question itself is the same. @returns {{model: string, messages: ChatMessage[], max_tokens?: number} | null} */
function question() {
  const { model, thread, draft } = state;
  const text = draft.trim();
  if (model === null || text.length < DRAFT_CHARS_MIN || text.length > DRAFT_CHARS_MAX || isBusy()) return null;
  const messages = thread.messagesFor(thread.path());
  return { ...limitOf(thread.record.sampling), model: model.id, messages: [...messages, { role: "user", content: text }] };
}

/** @param {SamplingSettings} sampling */
const limitOf = ({ max_tokens: limit }) => (limit === undefined ? {} : { max_tokens: limit });

/** Asks for a quote once the draft rests. */
function wantQuote() {
  const asked = account.session === null ? null : question();
  const text = asked === null ? "" : JSON.stringify(asked);
  if (text === wanted) return;
  wanted = text;
  clearTimeout(resting);
  if (asked !== null && text !== known.asked) resting = setTimeout(() => ask(asked, text), RESTS_MS);
}

/** @param {object} asked @param {string} text */
async function ask(asked, text) {
  // Without one the line is not there; what is wrong is said when the question is sent.
  const quote = await send("/quotes", asked).catch(() => null);
  if (text !== wanted) return;
  known = { asked: text, quote };
  redraw();
}

/** @param {string} amount @param {Quote} quote */
const isShort = (amount, { scale }) => account.funds !== null && unitsOf(account.funds.available, scale) < unitsOf(amount, scale);

/** The line below the question. */
export function noteView() {
  wantQuote();
  if (account.session === null) {
    return html`<p class="cost-line" id="cost-line" data-testid="cost-line">
      <button type="button" class="link" data-testid="sign-in-line" @click=${openSignIn}>${t("signin.title")}</button> ${t("cost.signin")}
    </p>`;
  }
  const quote = wanted !== "" && known.asked === wanted ? known.quote : null;
  const { funds } = account;
  if (quote?.free) return html`<p class="cost-line" id="cost-line" data-testid="cost-line">${t("cost.free")}</p>`;
  if (quote === null) {
    return html`<p class="cost-line" id="cost-line" data-testid="cost-line">${funds === null ? nothing : t("cost.left", { amount: money(funds.available, funds.asset) })}</p>`;
  }
  const { asset, prompt_tokens: read, max_tokens: most, amount_max: amount, price } = quote;
  const words = t("cost.most", { amount: money(amount, asset), read: wholeNumber(read), most: wholeNumber(most) });
  const prices = t("cost.price", { prompt: money(price.prompt_per_million, asset), completion: money(price.completion_per_million, asset) });
  const isTooMuch = isShort(amount, quote);
  return html`<p class=${isTooMuch ? "cost-line short" : "cost-line"} id="cost-line" data-testid="cost-line">
    <span title=${prices}>${isTooMuch ? t("cost.short", { amount: money(funds?.available ?? "0", asset) }) : words}</span>
    <span class="cost-price">${isTooMuch ? words : prices}</span>
  </p>`;
}

/** The quote whose price holds for a model now, if there is one. @param {string} model */
function quoteFor(model) {
  const { quote } = known;
  return quote !== null && !quote.free && quote.model === model && quote.expires * 1000 - EXPIRY_MARGIN_MS > Date.now() ? quote : null;
}

/** The text of a request, remembered for its receipt. @param {Turn} turn @param {{[name: string]: any}} body */
export function write(turn, body) {
  const quote = quoteFor(body.model);
  const { blyan, ...rest } = body;
  const text = JSON.stringify({ ...rest, return_token_ids: true, blyan: quote === null ? blyan : { ...blyan, quote: quote.id } });
  const request = text.length <= REQUEST_CHARS_MAX ? text : null;
  /** @type {ReceiptPart} */
  const part = { id: "", salt: "", request, amount: "", text: [turn.text.length, 0], thought: [turn.thought.length, 0] };
  counting.set(turn, { quote, tokens: 0, before: turn.bill, part });
  if (known.asked !== askedOf(body) || (quote === null && !known.quote?.free)) learnPrompt(turn, body);
  return text;
}

/** The text of the question that a quote answers. @param {{[name: string]: any}} body */
const askedOf = ({ model, messages, max_tokens: limit }) => JSON.stringify({ ...limitOf({ max_tokens: limit }), model, messages });

/** Without a quote for this very question, its tokens and perhaps its price are asked for beside the answer. @param {Turn} turn @param {{[name: string]: any}} body */
async function learnPrompt(turn, body) {
  const mine = counting.get(turn);
  const quote = await send("/quotes", JSON.parse(askedOf(body))).catch(() => null);
  const count = counting.get(turn);
  if (quote === null || count === undefined || count !== mine) return;
  count.quote = quote.free ? null : quote;
  estimate(turn);
}

/** @param {Turn} turn */
function estimate(turn) {
  const count = counting.get(turn);
  if (count === undefined || count.quote === null || count.tokens === 0) return;
  const { price, prompt_tokens: prompt, scale, asset } = count.quote;
  turn.bill = added(count.before, { amount: costOf(price, prompt, count.tokens, scale), asset }, scale, true);
}

/** @param {Bill | null} before @param {Cost} cost @param {number} scale @param {boolean} isEstimate @returns {Bill} */
function added(before, { amount, asset }, scale, isEstimate) {
  if (before === null) return { amount, asset, isEstimate, receipts: [] };
  return { amount: plus(before.amount, amount, scale), asset, isEstimate: isEstimate || before.isEstimate, receipts: before.receipts };
}

/** @param {Turn} turn @param {ChatChunk | null} chunk null when the answer has ended */
export function take(turn, chunk) {
  const count = counting.get(turn);
  if (count === undefined) return;
  if (chunk === null) {
    counting.delete(turn);
    readFunds();
    // What was stopped is charged a moment later.
    if (turn.bill?.isEstimate) setTimeout(readFunds, CHARGED_AFTER_MS);
    return;
  }
  const choice = chunk.choices?.[0];
  count.tokens += choice?.token_ids?.length ?? 0;
  const { cost, receipt } = chunk.usage ?? {};
  if (!cost) return estimate(turn);
  count.quote = null;
  turn.bill = added(count.before, cost, Math.max(...[cost, count.before ?? cost].map(({ amount }) => amount.split(".")[1]?.length ?? 0)), false);
  if (!receipt) return;
  const { part } = count;
  part.text[1] = turn.text.length;
  part.thought[1] = turn.thought.length;
  turn.bill.receipts = [...turn.bill.receipts, { ...part, id: receipt.id, salt: receipt.salt, amount: cost.amount }];
}

/** @param {Turn} turn */
export function costView({ bill, isOpen }) {
  if (bill === null) return nothing;
  const amount = money(bill.amount, bill.asset);
  const words = isOpen || bill.isEstimate ? t(isOpen ? "cost.running" : "cost.about", { amount }) : amount;
  return html`<span data-testid="cost" data-amount=${bill.amount} data-final=${isOpen || bill.isEstimate ? "false" : "true"}>${words}</span>`;
}
