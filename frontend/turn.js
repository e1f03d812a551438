/*
 * One question and its answer, from the first chunk to the last.
 *
 * States: `waiting` for the first word, `streaming`, then one of `done`, `length` (cut by the token limit), `stopped` by the
 * person, `failed`.
 */

import { ExpertWork } from "/blocks.js";

let lastId = 0;

export class Turn {
  id = ++lastId;
  text = "";
  state = "waiting";
  work = new ExpertWork();
  promptTokens = null;
  completionTokens = null;
  #firstTokenMs = null;
  #lastTokenMs = null;
  #finishReason = null;

  constructor(prompt) {
    this.prompt = prompt;
  }

  get isOpen() {
    return this.state === "waiting" || this.state === "streaming";
  }

  /** Tokens per second between the first and the last token; null when there are too few to say. */
  get rate() {
    const seconds = (this.#lastTokenMs - this.#firstTokenMs) / 1000;
    return this.completionTokens > 2 && seconds > 0 ? (this.completionTokens - 1) / seconds : null;
  }

  /** Takes one chunk of the stream; `nowMs` is a monotonic clock. */
  absorb(chunk, nowMs) {
    if (chunk.blyan?.experts) this.work.add(chunk.blyan.experts);
    if (chunk.usage) {
      this.promptTokens = chunk.usage.prompt_tokens;
      this.completionTokens = chunk.usage.completion_tokens;
    }
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) {
      this.text += choice.delta.content;
      this.state = "streaming";
      this.#firstTokenMs ??= nowMs;
      this.#lastTokenMs = nowMs;
    }
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
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

  #close(state) {
    this.state = state;
    this.work.rest();
  }
}

/** The messages to send for `prompt`: every earlier turn that got an answer, then the question. */
export function messagesFor(turns, prompt) {
  const answered = turns.filter((turn) => turn.text !== "");
  return [
    ...answered.flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.text },
    ]),
    { role: "user", content: prompt },
  ];
}
