/*
 * One answer, from the first chunk to the last, and as it is kept.
 *
 * States: `waiting` for the first word, `streaming`, then one of `done`, `length` (cut by the token limit), `stopped` by the
 * person, `failed`. A closed answer that was cut can be opened again, to go on.
 */

import { ExpertWork } from "/blocks.js";
import { MarkdownText } from "/markdown.js";

// An answer that came quicker came in one piece: what was timed then is how fast it was read.
const RATE_SECONDS_MIN = 0.01;

export class Turn {
  /** @type {"assistant"} */
  role = "assistant";
  text = "";
  /** What the model thought before it answered. */
  thought = "";
  /** @type {AnswerState} */
  state = "waiting";
  work = new ExpertWork();
  markdown = new MarkdownText();
  /** @type {number | null} */
  completionTokens = null;
  /** Tokens that went through the experts, question and answer; null where the node did not say. @type {number | null} */
  fedTokens = null;
  /** Tokens per second between the first and the last token; null when there are too few to say.
   * @type {number | null} */
  rate = null;
  /** What it cost, where the node charges. @type {Bill | null} */
  bill = null;
  #tokensBefore = 0;
  /** @type {number | null} */
  #fedBefore = 0;
  /** @type {number | null} */
  #firstTokenMs = null;
  #lastTokenMs = 0;
  /** @type {string | null} */
  #finishReason = null;

  /** @param {{id: string, conversation: string, parent: string, time: number, model: string | null}} identity */
  constructor({ id, conversation, parent, time, model }) {
    this.id = id;
    this.conversation = conversation;
    this.parent = parent;
    this.time = time;
    this.model = model;
  }

  /**
   * An answer as it was kept. One that was still open is written by another tab, or was cut with the tab that wrote it.
   * @param {MessageRecord} record
   * @param {boolean} isHeld a tab writes it
   */
  static from(record, isHeld) {
    const turn = new Turn({ ...record, parent: record.parent ?? "", model: record.model ?? null });
    const state = record.state ?? "done";
    turn.text = record.text;
    turn.thought = record.thought ?? "";
    turn.state = state;
    if (turn.isOpen && !isHeld) turn.state = "failed";
    turn.completionTokens = record.tokens ?? null;
    turn.rate = record.rate ?? null;
    turn.fedTokens = record.fed ?? null;
    turn.bill = record.bill ?? null;
    turn.work.add(record.experts ?? []);
    turn.work.rest();
    return turn;
  }

  /** @returns {MessageRecord} */
  get record() {
    const { id, conversation, parent, role, text, thought, time, state, model, completionTokens, rate, fedTokens, work, bill } = this;
    const experts = work.triples();
    return { id, conversation, parent, role, text, thought, time, state, model, tokens: completionTokens, rate, fed: fedTokens, experts, bill };
  }

  get isOpen() {
    return this.state === "waiting" || this.state === "streaming";
  }

  /** Cut before its end, with text to go on from. */
  get isCut() {
    return this.text !== "" && (this.state === "length" || this.state === "stopped" || this.state === "failed");
  }

  /** The rest of this answer is on its way. */
  reopen() {
    this.state = "waiting";
    this.#tokensBefore = this.completionTokens ?? 0;
    this.#fedBefore = this.fedTokens;
    this.fedTokens = null;
    this.#firstTokenMs = null;
    this.#finishReason = null;
  }

  /**
   * Takes one chunk of the stream; `nowMs` is a monotonic clock.
   * @param {ChatChunk} chunk
   * @param {number} nowMs
   */
  absorb(chunk, nowMs) {
    if (chunk.blyan?.experts) this.work.add(chunk.blyan.experts);
    if (chunk.usage) this.#count(chunk.usage.prompt_tokens, chunk.usage.completion_tokens);
    const choice = chunk.choices?.[0];
    const { content, reasoning_content: thought } = choice?.delta ?? {};
    if (content || thought) {
      this.text += content ?? "";
      this.thought += thought ?? "";
      this.state = "streaming";
      this.#firstTokenMs ??= nowMs;
      this.#lastTokenMs = nowMs;
    }
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
  }

  /** @param {number} prompt @param {number} tokens */
  #count(prompt, tokens) {
    this.completionTokens = this.#tokensBefore + tokens;
    // The last token of an answer is not fed back.
    if (this.#fedBefore !== null && tokens > 0) this.fedTokens = this.#fedBefore + prompt + tokens - 1;
    const seconds = (this.#lastTokenMs - (this.#firstTokenMs ?? this.#lastTokenMs)) / 1000;
    if (tokens > 2 && seconds >= RATE_SECONDS_MIN) this.rate = (tokens - 1) / seconds;
  }

  finish() {
    this.#close(this.#finishReason === "length" ? "length" : "done");
  }

  stop() {
    this.#close("stopped");
  }

  fail() {
    this.#close("failed");
  }

  /** @param {AnswerState} state */
  #close(state) {
    this.state = state;
    this.work.rest();
  }
}
