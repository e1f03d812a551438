/*
 * What a node signs: entries, the joint checkpoint, and a chain's note (docs/spec/chain-entry.md, joint.md, log.md), read as strictly
 * as this page needs. Parsing throws `Malformed`; whether a signature holds is a separate question.
 */

import { concatenate, decodeObject, fromHex, Malformed, toHex } from "/canonical.js";
import { verify, verifyRaw } from "/ed25519.js";
import { leafHash, sha256 } from "/merkle.js";

/**
 * @typedef {"meta" | "parameter" | "dataset"} ChainName
 * @typedef {{size: number, root: string}} Head
 * @typedef {{network: string, heads: Record<ChainName, Head>, height: number, time: number, author: string, signed: Uint8Array,
 *   sig: string}} Joint
 * @typedef {{id: string, bytes: number, media: string}} Payload
 * @typedef {{author: string, body: {[name: string]: any}, chain: ChainName, network: string, type: string, time: number,
 *   payload: Payload | null, id: string, leaf: Uint8Array, signed: Uint8Array, sig: string}} Entry
 * @typedef {{origin: string, size: number, root: string, text: Uint8Array<ArrayBuffer>, lines: {name: string,
 *   blob: Uint8Array<ArrayBuffer>}[]}} Note
 */

const SIGNATURE_NAME = ',"sig":"';
const CHAINS = /** @type {ChainName[]} */ (["meta", "parameter", "dataset"]);

/**
 * The bytes that a signature covers: those received, without `sig`. Nothing that an author chose stands after the last such name,
 * because names rise and the bytes are canonical.
 * @param {Uint8Array} bytes
 * @param {string} signature
 */
function withoutSignature(bytes, signature) {
  const text = new TextDecoder().decode(bytes);
  const at = text.lastIndexOf(SIGNATURE_NAME);
  if (at < 0) throw new Malformed("expected a signature, found none");
  const end = at + SIGNATURE_NAME.length + signature.length + 1;
  return new TextEncoder().encode(text.slice(0, at) + text.slice(end));
}

/**
 * @param {unknown} value
 * @param {RegExp} pattern
 * @param {string} what
 * @returns {string}
 */
function textField(value, pattern, what) {
  if (typeof value !== "string" || !pattern.test(value)) throw new Malformed(`${what}: ${String(value).slice(0, 80)}`);
  return value;
}

/**
 * @param {unknown} value
 * @param {string} what
 * @returns {number}
 */
function countOf(value, what) {
  if (typeof value !== "number" || !(value >= 0)) throw new Malformed(`${what}: ${String(value).slice(0, 80)}`);
  return value;
}

const HEX_32 = /^[0-9a-f]{64}$/;
const HEX_64 = /^[0-9a-f]{128}$/;

/**
 * @param {Uint8Array} bytes
 * @returns {Joint}
 */
export function parseJoint(bytes) {
  const value = decodeObject(bytes);
  if (value.v !== 1) throw new Malformed("joint checkpoint: expected version 1");
  const heads = /** @type {any} */ (value.heads);
  const sig = textField(value.sig, HEX_64, "signature");
  const head = (/** @type {ChainName} */ name) => ({
    size: countOf(heads?.[name]?.size, `size of ${name}`),
    root: textField(heads?.[name]?.root, HEX_32, `root of ${name}`),
  });
  return {
    network: textField(value.network, /^[a-z0-9-]{1,64}$/, "network"),
    heads: { meta: head("meta"), parameter: head("parameter"), dataset: head("dataset") },
    height: countOf(value.height, "height"),
    time: countOf(value.time, "time"),
    author: textField(value.author, HEX_32, "author"),
    signed: withoutSignature(bytes, sig),
    sig,
  };
}

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<Entry>}
 */
export async function parseEntry(bytes) {
  const value = decodeObject(bytes);
  if (value.v !== 1) throw new Malformed("entry: expected version 1");
  const chain = CHAINS.find((name) => name === value.chain);
  if (chain === undefined) throw new Malformed(`entry: chain ${String(value.chain).slice(0, 80)}`);
  if (value.body === null || typeof value.body !== "object") throw new Malformed("entry: expected a body");
  const sig = textField(value.sig, HEX_64, "signature");
  const payload = /** @type {any} */ (value.payload);
  const leaf = await leafHash(bytes);
  return {
    author: textField(value.author, HEX_32, "author"),
    body: value.body,
    chain,
    network: textField(value.network, /^[a-z0-9-]{1,64}$/, "network"),
    type: textField(value.type, /^[a-z_]{1,64}$/, "type"),
    time: countOf(value.time, "time"),
    payload: payload
      ? {
          id: textField(payload.id, HEX_32, "payload"),
          bytes: countOf(payload.bytes, "payload bytes"),
          media: textField(payload.media, /^[a-z0-9./+-]{1,128}$/, "media"),
        }
      : null,
    id: toHex(leaf),
    leaf,
    signed: withoutSignature(bytes, sig),
    sig,
  };
}

/** @param {Entry} entry */
export function entrySignatureHolds(entry) {
  return verify(entry.author, "entry", entry.signed, entry.sig);
}

/** @param {Joint} joint */
export function jointSignatureHolds(joint) {
  return verify(joint.author, "joint", joint.signed, joint.sig);
}

/** @param {string} text */
function fromBase64(text) {
  let letters;
  try {
    letters = atob(text);
  } catch {
    throw new Malformed(`base64: ${text.slice(0, 80)}`);
  }
  if (btoa(letters) !== text) throw new Malformed(`base64: ${text.slice(0, 80)}`);
  return Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
}

/**
 * A C2SP checkpoint in a signed note.
 * @param {string} note
 * @returns {Note}
 */
export function parseNote(note) {
  const at = note.indexOf("\n\n");
  const [origin, size, root, ...more] = note.slice(0, Math.max(at, 0)).split("\n");
  if (at < 0 || more.length > 0 || !/^(0|[1-9]\d{0,12})$/.test(size ?? "") || root === undefined) {
    throw new Malformed("note: expected origin, size and root");
  }
  const hash = fromBase64(root);
  if (hash.length !== 32) throw new Malformed("note: expected a root of 32 bytes");
  const lines = note.slice(at + 2).split("\n");
  if (lines.pop() !== "") throw new Malformed("note: expected a line feed at its end");
  const parsed = lines.map((line) => {
    const match = /^— (\S+) ([A-Za-z0-9+/=]+)$/.exec(line);
    const blob = match ? fromBase64(match[2]) : new Uint8Array(0);
    if (match === null || blob.length < 5) throw new Malformed(`note: expected a signature, found ${line.slice(0, 80)}`);
    return { name: match[1], blob };
  });
  return { origin, size: Number(size), root: toHex(hash), text: new TextEncoder().encode(note.slice(0, at + 1)), lines: parsed };
}

/**
 * Whether `author` signed a note in its origin's name; witnesses may have signed too.
 * @param {Note} note
 * @param {string} author 64 hex digits
 */
export async function noteSignatureHolds(note, author) {
  const named = concatenate(new TextEncoder().encode(`${note.origin}\n`), [1], fromHex(author, 32));
  const keyId = toHex((await sha256(named)).subarray(0, 4));
  const own = note.lines.findLast(({ name, blob }) => name === note.origin && toHex(blob.subarray(0, 4)) === keyId);
  return own !== undefined && (await verifyRaw(author, note.text, own.blob.slice(4)));
}

/**
 * The entries of a bundle: each u16 BE length and bytes.
 * @param {Uint8Array} bundle
 */
export function entriesOfBundle(bundle) {
  const found = [];
  for (let at = 0; at < bundle.length; ) {
    const length = 256 * bundle[at] + (bundle[at + 1] ?? Number.NaN);
    const entry = bundle.subarray(at + 2, at + 2 + length);
    if (entry.length !== length || length === 0) throw new Malformed("bundle: expected whole entries, found a part of one");
    found.push(entry);
    at += 2 + length;
  }
  return found;
}
