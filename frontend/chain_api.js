/*
 * The chains and blobs of a node as bytes, each with a limit: what is checked is what was received.
 *
 * Throws `ApiError` where the node refuses or cannot be reached, `Malformed` where it sends more, or other, than there can be.
 */

import { ApiError } from "/api.js";
import { fromHex, Malformed, memberText } from "/canonical.js";

/** @typedef {import("/promises.js").ChainName} ChainName */

const KIB = 1024;
const JOINT_BYTES_MAX = 8 * KIB;
const PROOF_BYTES_MAX = 64 * KIB;
const ANSWER_BYTES_MAX = 64 * KIB * KIB;
const BUNDLE_WIDTH = 256;
const BUNDLE_BYTES_MAX = BUNDLE_WIDTH * (32 * KIB + 2);

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 */
async function get(path, signal) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", signal });
  } catch (failure) {
    if (signal?.aborted) throw failure;
    throw new ApiError({ code: "unreachable", message: "" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (body?.error && typeof body.error === "object") throw ApiError.from(body.error);
  throw new ApiError({ code: `http_${response.status}`, message: `HTTP ${response.status}` });
}

/**
 * Yields the pieces of an answer as they arrive, at most `most` bytes.
 * @param {string} path
 * @param {number} most
 * @param {AbortSignal} [signal]
 */
async function* pieces(path, most, signal) {
  const response = await get(path, signal);
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).getReader();
  let total = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      total += value.length;
      if (total > most) throw new Malformed(`expected at most ${most} bytes, found more`);
      yield value;
    }
  } catch (failure) {
    if (failure instanceof Malformed || signal?.aborted) throw failure;
    throw new ApiError({ code: "stream_broken", message: "" });
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {string} path
 * @param {number} most
 */
async function bytesOf(path, most) {
  const held = [];
  for await (const piece of pieces(path, most)) held.push(piece);
  return new Uint8Array(await new Blob(held).arrayBuffer());
}

/** @param {Uint8Array} bytes */
function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Malformed("expected UTF-8, found other bytes");
  }
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Malformed("expected JSON, found other text");
  }
}

/** The bytes of the joint checkpoint. */
export function jointBytes() {
  return bytesOf("/chain/joint", JOINT_BYTES_MAX);
}

/**
 * One entry as it was sent, its path below the first `size` entries, and the chain's newest note.
 * @param {ChainName} chain
 * @param {number} index
 * @param {number} size
 */
export async function proofOf(chain, index, size) {
  const text = textOf(await bytesOf(`/chain/${chain}/proof?index=${index}&size=${size}`, PROOF_BYTES_MAX));
  const { path, leaf, checkpoint } = parsed(text);
  if (!Array.isArray(path) || path.length > 64 || typeof checkpoint !== "string") throw new Malformed("proof: no path");
  return {
    entry: new TextEncoder().encode(memberText(text, "entry")),
    leaf: String(leaf),
    path: path.map((beside) => fromHex(beside, 32)),
    note: checkpoint,
  };
}

/**
 * Where the meta chain says something of a model: numbers of entries, rising.
 * @param {string} model
 * @returns {Promise<number[]>}
 */
export async function modelEntries(model) {
  const path = `/chain/meta/find?model=${encodeURIComponent(model)}&limit=1024`;
  const { entries } = parsed(textOf(await bytesOf(path, ANSWER_BYTES_MAX)));
  if (!Array.isArray(entries)) throw new Malformed("find: expected entries");
  return entries.map(({ index }) => Number(index));
}

/**
 * The bundles that hold the first `size` entries of a chain, one after the other.
 * @param {ChainName} chain
 * @param {number} size
 */
export async function* bundlesOf(chain, size) {
  for (let begin = 0; begin < size; begin += BUNDLE_WIDTH) {
    const width = Math.min(BUNDLE_WIDTH, size - begin);
    const digits = String(begin / BUNDLE_WIDTH).padStart(3, "0");
    const groups = digits.padStart(Math.ceil(digits.length / 3) * 3, "0").match(/\d{3}/g) ?? [];
    const name = groups.map((group, at) => (at < groups.length - 1 ? `x${group}` : group)).join("/");
    const part = width < BUNDLE_WIDTH ? `.p/${width}` : "";
    yield await bytesOf(`/chain/${chain}/tile/entries/${name}${part}`, BUNDLE_BYTES_MAX);
  }
}

/**
 * A small payload, whole.
 * @param {string} payload
 * @param {number} most bytes
 */
export function blobBytes(payload, most) {
  return bytesOf(`/blobs/${payload}`, most);
}

/**
 * The pieces of a payload as they arrive.
 * @param {string} payload
 * @param {number} length bytes
 * @param {AbortSignal} signal
 */
export function blobPieces(payload, length, signal) {
  return pieces(`/blobs/${payload}`, length, signal);
}

/**
 * The leaves of a payload as the node says.
 * @param {string} payload
 * @param {number} count subtiles
 */
export async function leavesOf(payload, count) {
  const raw = await bytesOf(`/blobs/${payload}/index`, 32 * count);
  return Array.from({ length: Math.floor(raw.length / 32) }, (_, at) => raw.subarray(32 * at, 32 * at + 32));
}
