/*
 * RFC 6962 section 2.1 with the browser's own SHA-256: leaves, roots and inclusion paths (docs/spec/log.md).
 *
 * Browsers have `crypto.subtle` only on https and on this machine's own addresses; elsewhere everything here throws `NoCrypto`.
 */

import { concatenate } from "/canonical.js";

/** This browser does not offer what a check needs here. */
export class NoCrypto extends Error {}

/** @param {Uint8Array<ArrayBuffer>} bytes */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) throw new NoCrypto("SHA-256");
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/**
 * The hash of one entry, which is also its id.
 * @param {Uint8Array} entry
 */
export function leafHash(entry) {
  return sha256(concatenate([0], entry));
}

/**
 * @param {Uint8Array} left
 * @param {Uint8Array} right
 */
function nodeHash(left, right) {
  return sha256(concatenate([1], left, right));
}

/**
 * The root that a leaf and its path add up to (RFC 9162 section 2.1.3.2); null if a path of this length fits no such tree.
 * @param {number} index of the leaf
 * @param {number} size leaves of the tree
 * @param {Uint8Array} leaf
 * @param {Uint8Array[]} path
 * @returns {Promise<Uint8Array | null>}
 */
export async function rootOfPath(index, size, leaf, path) {
  if (!(Number.isSafeInteger(index) && Number.isSafeInteger(size) && 0 <= index && index < size)) return null;
  let [at, last, computed] = [index, size - 1, leaf];
  // halves, not shifts: sizes may pass 2^32
  const up = () => ([at, last] = [Math.floor(at / 2), Math.floor(last / 2)]);
  for (const beside of path) {
    if (last === 0) return null;
    if (at % 2 === 1 || at === last) {
      computed = await nodeHash(beside, computed);
      while (at % 2 === 0 && at !== 0) up();
    } else {
      computed = await nodeHash(computed, beside);
    }
    up();
  }
  return last === 0 ? computed : null;
}

/**
 * The root of a whole tree.
 * @param {Uint8Array[]} leaves hashes of entries
 * @returns {Promise<Uint8Array>}
 */
export async function rootOfLeaves(leaves) {
  if (leaves.length === 0) return sha256(new Uint8Array(0));
  if (leaves.length === 1) return leaves[0];
  let split = 1;
  while (split * 2 < leaves.length) split *= 2;
  return nodeHash(await rootOfLeaves(leaves.slice(0, split)), await rootOfLeaves(leaves.slice(split)));
}
