/*
 * Server-sent events from a fetch body.
 *
 * EventSource can only GET, and a chat is a POST. This parser follows the WHATWG HTML standard, section 9.2.6: LF, CR and CRLF
 * end a line wherever the network cut the bytes, `data` lines of one event are joined by LF, lines that start with a colon are
 * comments. It leaves out `id`, `event` and `retry`: a generation is not resumed by reconnecting.
 */

const LINE_END = /\r\n|\r|\n/g;

export class SseParser {
  #line = "";
  /** @type {string[]} */
  #data = [];
  #afterCarriageReturn = false;
  #atStart = true;

  /** Takes any piece of the stream; returns the data strings of the events that it completed. @param {string} text */
  push(text) {
    if (this.#atStart && text.length > 0) {
      if (text.startsWith("\uFEFF")) text = text.slice(1);
      this.#atStart = false;
    }
    /** @type {string[]} */
    const events = [];
    // The LF of a CRLF whose CR may have ended the previous piece: the line is already complete.
    let at = this.#afterCarriageReturn && text.startsWith("\n") ? 1 : 0;
    if (text !== "") this.#afterCarriageReturn = false;
    LINE_END.lastIndex = at;
    for (let end = LINE_END.exec(text); end !== null; end = LINE_END.exec(text)) {
      this.#line += text.slice(at, end.index);
      this.#endLine(events);
      at = LINE_END.lastIndex;
      this.#afterCarriageReturn = end[0] === "\r" && at === text.length;
    }
    this.#line += text.slice(at);
    return events;
  }

  /** @param {string[]} events */
  #endLine(events) {
    const line = this.#line;
    this.#line = "";
    if (line === "") {
      if (this.#data.length > 0) events.push(this.#data.join("\n"));
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + 1);
    if (field === "data") this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}

/**
 * Yields the data string of every event of a ReadableStream of bytes. An event that the end of the stream cuts off is dropped,
 * as the standard says. Leaving the loop early cancels the stream.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string, void, void>}
 */
export async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const parser = new SseParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Rejects when the stream already failed; that failure is on its way to the caller.
    reader.cancel().catch(() => {});
  }
}
