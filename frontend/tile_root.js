/*
 * A payload's id from its bytes (docs/spec/tile-root.md, digests.md): BLAKE3 in derive-key mode over subtiles of 256 KiB, eight to a node.
 *
 * Bytes are hashed as they arrive; nothing of a payload but its leaves is kept.
 */

import { concatenate, toHex } from "/canonical.js";
import { blake3 } from "/vendor/noble-hashes/blake3.js";

export const SUBTILE_BYTES = 256 * 1024;
const FANOUT = 8;

/**
 * @param {string} use
 * @param {Uint8Array} bytes
 * @returns {Uint8Array}
 */
function keyed(use, bytes) {
  return blake3(bytes, { context: new TextEncoder().encode(`blyan v1 ${use}`) });
}

/** @param {Uint8Array} bytes of one subtile */
export function hashSubtile(bytes) {
  return keyed("subtile", bytes);
}

/**
 * @param {number} level
 * @param {Uint8Array[]} children
 */
export function hashNode(level, children) {
  return keyed("node", concatenate([level, children.length], ...children));
}

/**
 * The id of a payload of that length and tile root.
 * @param {number} length bytes
 * @param {Uint8Array} root
 */
export function hashPayload(length, root) {
  const size = new Uint8Array(8);
  new DataView(size.buffer).setBigUint64(0, BigInt(length), true);
  return toHex(keyed("payload", concatenate(size, root)));
}

/**
 * The id of a payload whose subtiles have these leaves.
 * @param {number} length bytes
 * @param {Uint8Array[]} leaves at least one
 */
export function payloadId(length, leaves) {
  let nodes = leaves;
  for (let level = 1; nodes.length > 1; level += 1) {
    const above = [];
    for (let at = 0; at < nodes.length; at += FANOUT) above.push(hashNode(level, nodes.slice(at, at + FANOUT)));
    nodes = above;
  }
  return hashPayload(length, nodes[0]);
}

/** Hashes a payload that arrives in pieces of any size. */
export class TileHasher {
  /** @type {Uint8Array[]} */
  leaves = [];
  length = 0;
  #rest = new Uint8Array(SUBTILE_BYTES);
  #held = 0;

  /** @param {Uint8Array} piece */
  update(piece) {
    this.length += piece.length;
    for (let at = 0; at < piece.length; ) {
      const take = Math.min(SUBTILE_BYTES - this.#held, piece.length - at);
      this.#rest.set(piece.subarray(at, at + take), this.#held);
      this.#held += take;
      at += take;
      if (this.#held === SUBTILE_BYTES) this.#close();
    }
  }

  #close() {
    this.leaves.push(hashSubtile(this.#rest.subarray(0, this.#held)));
    this.#held = 0;
  }

  /** The payload's id; null of no bytes, for an empty payload has none. */
  finish() {
    if (this.#held > 0) this.#close();
    return this.length === 0 ? null : payloadId(this.length, this.leaves);
  }
}
