/*
 * The one encoding for what is hashed or signed (docs/spec/canonical.md): the integer-only subset of RFC 8785.
 *
 * A reader parses, encodes again and refuses bytes that differ; what it hashes are the bytes it received.
 */

const DEPTH_MAX = 8;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What a node sent is not what the format says: a failed check, never a fault of the page. */
export class Malformed extends Error {}


/**
 * The canonical text of a value; throws `Malformed` where it has none.
 * @param {unknown} value
 * @param {number} depth
 * @returns {string}
 */
export function encode(value, depth = 0) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number" && Number.isSafeInteger(value)) return String(value);
  if (typeof value === "string" && isWellFormed(value)) return JSON.stringify(value);
  if (typeof value !== "object" || depth >= DEPTH_MAX) throw new Malformed("not a canonical value");
  if (Array.isArray(value)) return `[${value.map((each) => encode(each, depth + 1)).join(",")}]`;
  const named = /** @type {{[name: string]: unknown}} */ (value);
  const names = Object.keys(named).sort();
  if (names.some((name) => /[^\x00-\x7f]/.test(name))) throw new Malformed("a name that is not ASCII");
  return `{${names.map((name) => `${JSON.stringify(name)}:${encode(named[name], depth + 1)}`).join(",")}}`;
}

/** @param {string} text */
function isWellFormed(text) {
  return !/[\ud800-\udfff]/u.test(text); // with the u flag, only a half of a pair that stands alone matches
}

/**
 * The value of canonical bytes; throws `Malformed` for any others.
 * @param {Uint8Array} bytes
 * @returns {Canonical}
 */
export function decode(bytes) {
  let text, value;
  try {
    text = utf8.decode(bytes);
    value = JSON.parse(text);
  } catch {
    throw new Malformed("expected canonical JSON, found bytes that are no JSON");
  }
  if (encode(value) !== text) throw new Malformed("expected canonical JSON, found another spelling of it");
  return value;
}

/**
 * The object of canonical bytes.
 * @param {Uint8Array} bytes
 * @returns {{[name: string]: Canonical}}
 */
export function decodeObject(bytes) {
  const value = decode(bytes);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Malformed("expected an object");
  return value;
}

/**
 * The text of one member of a JSON object as it was sent, so that its very bytes can be hashed; throws `Malformed` if there is none.
 * @param {string} text a JSON object without white space between its tokens
 * @param {string} name a name without escapes
 */
export function memberText(text, name) {
  let depth = 0;
  let begin = -1;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (letter === '"') {
      const end = stringEnd(text, at);
      if (depth === 1 && begin < 0 && text[end] === ":" && text.slice(at + 1, end - 1) === name) begin = end + 1;
      at = end - 1;
    } else if (letter === "{" || letter === "[") {
      depth += 1;
    } else if (letter === "}" || letter === "]") {
      depth -= 1;
      if (depth === 0 && begin >= 0) return text.slice(begin, at);
    } else if (letter === "," && depth === 1 && begin >= 0) {
      return text.slice(begin, at);
    }
  }
  throw new Malformed(`expected a member ${name}, found none`);
}

/**
 * Where the string that begins at `at` has ended.
 * @param {string} text
 * @param {number} at
 */
function stringEnd(text, at) {
  let end = at + 1;
  while (end < text.length && text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
  return end + 1;
}

/**
 * The 32 or more bytes of lower-case hex digits; throws `Malformed` for any other text.
 * @param {unknown} text
 * @param {number} count bytes
 */
export function fromHex(text, count) {
  if (typeof text !== "string" || text.length !== 2 * count || !/^[0-9a-f]*$/.test(text)) {
    throw new Malformed(`expected ${2 * count} hex digits, found ${String(text).slice(0, 80)}`);
  }
  return Uint8Array.from({ length: count }, (_, at) => Number.parseInt(text.slice(2 * at, 2 * at + 2), 16));
}

/** @param {Uint8Array} bytes */
export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Several runs of bytes as one.
 * @param {...(Uint8Array | number[])} runs
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function concatenate(...runs) {
  const whole = new Uint8Array(runs.reduce((sum, run) => sum + run.length, 0));
  let at = 0;
  for (const run of runs) {
    whole.set(run, at);
    at += run.length;
  }
  return whole;
}
