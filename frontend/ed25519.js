/*
 * Ed25519 by WebCrypto, as strict as the node (docs/spec/signatures.md): keys and commitments of small order are refused, so that no
 * key signs everything.
 *
 * A browser that has no Ed25519 makes every function throw `NoCrypto`: a signature that was not checked is never called good.
 */

import { concatenate, fromHex } from "/canonical.js";
import { NoCrypto } from "/merkle.js";

const FIELD = (1n << 255n) - 19n;
// y of the points whose order divides 8; the sign of x makes no difference.
const SMALL_ORDER = new Set([
  0n,
  1n,
  FIELD - 1n,
  0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n,
  0x7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7n,
]);

/** @param {Uint8Array} point */
function isUsable(point) {
  let y = 0n;
  for (let at = 31; at >= 0; at -= 1) y = (y << 8n) | BigInt(at === 31 ? point[at] & 0x7f : point[at]);
  return y < FIELD && !SMALL_ORDER.has(y);
}

/**
 * Whether a signature over exactly these bytes is this key's.
 * @param {string} author 64 hex digits
 * @param {Uint8Array<ArrayBuffer>} message
 * @param {Uint8Array<ArrayBuffer>} signature 64 bytes
 */
export async function verifyRaw(author, message, signature) {
  const point = fromHex(author, 32);
  if (signature.length !== 64 || !isUsable(point) || !isUsable(signature.subarray(0, 32))) return false;
  if (!globalThis.crypto?.subtle) throw new NoCrypto("Ed25519");
  let key;
  try {
    key = await crypto.subtle.importKey("raw", point, { name: "Ed25519" }, false, ["verify"]);
  } catch (failure) {
    if (failure instanceof DOMException && failure.name === "NotSupportedError") throw new NoCrypto("Ed25519");
    return false;
  }
  return crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
}

/**
 * Whether a signature of one kind is this key's: it covers `blyan v1 <kind>`, a zero byte and the bytes.
 * @param {string} author
 * @param {"entry" | "joint" | "rotation" | "receipt"} kind
 * @param {Uint8Array} message
 * @param {string} signature 128 hex digits
 */
export function verify(author, kind, message, signature) {
  const framed = concatenate(new TextEncoder().encode(`blyan v1 ${kind}\0`), message);
  return verifyRaw(author, framed, fromHex(signature, 64));
}
