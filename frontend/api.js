/*
 * The node's HTTP API as this page uses it: every failure becomes one ApiError, whose `code` is stable.
 *
 * Codes that the page itself gives: `unreachable` (no HTTP answer), `stream_broken` (the answer ended before its end mark),
 * `http_NNN` (an error that is not in the API's form).
 */

import { eventsOf } from "/sse.js";

export class ApiError extends Error {
  /** @param {{code: string, message: string, hint?: string | null, detail?: DamageDetail | null, requestId?: string | null, retryAfterSeconds?: number | null}} fault */
  constructor({ code, message, hint = null, detail = null, requestId = null, retryAfterSeconds = null }) {
    super(message);
    this.code = code;
    this.hint = hint;
    this.detail = detail ?? {};
    /** By which the node's log is searched. */
    this.requestId = requestId;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  /**
   * From the API's error object.
   * @param {ApiErrorBody} error
   * @param {number | null} [retryAfterSeconds]
   */
  static from(error, retryAfterSeconds = null) {
    return new ApiError({
      code: String(error.code ?? error.type ?? "error"),
      message: String(error.message ?? ""),
      hint: error.hint ?? null,
      detail: error.detail,
      requestId: error.request_id ?? null,
      retryAfterSeconds,
    });
  }
}

/** The node, or a part of the page, did not come. @returns {never} */
export function unreached() {
  throw new ApiError({ code: "unreachable", message: "" });
}

/** @param {string} path @param {RequestInit} options @returns {Promise<Response>} */
export async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (failure) {
    if (isAbort(failure)) throw failure;
    unreached();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {unknown} failure */
const isAbort = (failure) => failure instanceof DOMException && failure.name === "AbortError";

/** @param {Response} response @returns {Promise<ApiError>} */
async function refusal(response) {
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfterSeconds = Number.isFinite(seconds) ? seconds : null;
  const body = await response.json().catch(() => null);
  if (body?.error && typeof body.error === "object") return ApiError.from(body.error, retryAfterSeconds);
  return new ApiError({
    code: `http_${response.status}`,
    message: `HTTP ${response.status} ${response.statusText}`.trim(),
    retryAfterSeconds,
  });
}

/** @param {string} path @param {RequestInit} [options] @returns {Promise<any>} */
export async function json(path, options = {}) {
  const response = await call(path, options);
  try {
    return await response.json();
  } catch {
    throw new ApiError({ code: "stream_broken", message: "" });
  }
}

/** The models of the node, as `/v1/models` lists them. @returns {Promise<ModelCard[]>} */
export async function listModels() {
  return (await json("/v1/models")).data;
}

/** Every block of one model with its state, and the checkpoint that it was checked against. @param {string} model @returns {Promise<BlockReport>} */
export function blocksOf(model) {
  return json(`/network/experts?model=${encodeURIComponent(model)}`);
}

/** Whether the node answers at all. */
export async function isAlive() {
  try {
    return (await fetch("/livez", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/**
 * Yields the chunks of one streamed answer. Throws ApiError, or AbortError when `signal` fired; what was yielded before stays valid.
 * @param {{model: string, messages: ChatMessage[], sampling: SamplingSettings, isContinued: boolean, signal: AbortSignal,
 *   write: (body: {[name: string]: any}) => string}} request
 *   `isContinued`: the last message is an answer that was cut, and only its rest is wanted; `write`: the request's text
 * @returns {AsyncGenerator<ChatChunk, void, void>}
 */
export async function* streamChat({ model, messages, sampling, isContinued, signal, write }) {
  const response = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: write({
      ...sampling,
      model,
      messages,
      ...(isContinued ? { continue_final_message: true } : {}),
      stream: true,
      stream_options: { include_usage: true },
      blyan: { experts: true },
    }),
    signal,
  });
  if (response.body === null) throw new ApiError({ code: "stream_broken", message: "" });
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      /** @type {ChatChunk} */
      const chunk = JSON.parse(data);
      yield chunk; // one with an error may say what the answer cost until then
      if (chunk.error) throw ApiError.from(chunk.error);
    }
  } catch (failure) {
    if (failure instanceof ApiError || isAbort(failure)) throw failure;
  }
  // Reached when the connection broke, a chunk was not JSON, or the stream ended without its end mark: the answer is not whole.
  throw new ApiError({ code: "stream_broken", message: "" });
}
