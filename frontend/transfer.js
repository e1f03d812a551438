/*
 * Conversations as a file and back. Version 1 of the format:
 *
 *   {"format": "blyan/conversations", "version": 1, "exported": ISO 8601, "conversations": [ConversationRecord + messages]}
 *
 * A file comes from outside: every field is checked against a kind and a limit before anything is kept, and unknown fields are
 * left out. One bad conversation refuses the file, by name: half an import would be hard to notice.
 */

import { newId } from "/thread.js";

const FORMAT = "blyan/conversations";
const FILE_VERSION = 1;
export const FILE_BYTES_MAX = 64 * 1024 * 1024;
const CONVERSATIONS_MAX = 10_000;
const MESSAGES_MAX = 10_000;
const TEXT_CHARS_MAX = 4 * 1024 * 1024;
const NAME_CHARS_MAX = 500;
const TRIPLES_MAX = 65_536;
const ID = /^[0-9a-f]{32}$/;
/** @type {(keyof SamplingSettings)[]} */
const NUMBERS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "seed",
  "max_tokens",
  "frequency_penalty",
  "presence_penalty",
  "repetition_penalty",
];

/** What was expected and what was found, as the file's reader should know it. */
export class BadFile extends Error {}

/** @param {import("/store.js").Kept[]} kept @param {Date} now @returns {string} */
export function exported(kept, now) {
  const conversations = kept.map(({ record, messages }) => {
    const { deleted: _, ...fields } = record;
    return { ...fields, messages: messages.map(({ conversation: __, ...message }) => message) };
  });
  return JSON.stringify({ format: FORMAT, version: FILE_VERSION, exported: now.toISOString(), conversations });
}

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {string} where @param {string} expected @param {unknown} found @returns {never} */
function refuse(where, expected, found) {
  const brief = typeof found === "string" ? JSON.stringify(found.slice(0, 40)) : Array.isArray(found) ? "a list" : String(found);
  throw new BadFile(`${where}: expected ${expected}, found ${brief}`);
}

/** @param {unknown} value @param {string} where @param {number} max @returns {string} */
function text(value, where, max) {
  if (typeof value !== "string" || value.length > max) refuse(where, `text of at most ${max} characters`, value);
  return value;
}

/** @param {unknown} value @param {string} where @returns {number} */
function time(value, where) {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) refuse(where, "milliseconds since 1970", value);
  return value;
}

/** @param {unknown} value @param {string} where @returns {number | null} */
function count(value, where) {
  if (value === null || value === undefined) return null;
  if (typeof value !== "number" || !(value >= 0 && value < 1e12)) refuse(where, "a number of at least 0", value);
  return value;
}

/** @param {unknown} value @param {string} where @returns {ExpertTriple[]} */
function triples(value, where) {
  if (value === undefined) return [];
  const isTriple = (/** @type {unknown} */ item) =>
    Array.isArray(item) && item.length === 3 && item.every((number) => Number.isSafeInteger(number) && number >= 0);
  if (!Array.isArray(value) || value.length > TRIPLES_MAX || !value.every(isTriple)) {
    refuse(where, `at most ${TRIPLES_MAX} triples of layer, expert and tokens`, value);
  }
  return value;
}

/** @param {unknown} value @param {string} where @returns {SamplingSettings} */
function sampling(value, where) {
  if (!isObject(value)) refuse(where, "an object", value);
  /** @type {Record<string, unknown>} */
  const found = {};
  for (const name of NUMBERS) {
    if (value[name] === undefined) continue;
    if (typeof value[name] !== "number" || !Number.isFinite(value[name])) refuse(`${where}.${name}`, "a number", value[name]);
    found[name] = value[name];
  }
  if (value.stop !== undefined) {
    if (!Array.isArray(value.stop) || value.stop.length > 16) refuse(`${where}.stop`, "at most 16 texts", value.stop);
    found.stop = value.stop.map((word, at) => text(word, `${where}.stop[${at}]`, 256));
  }
  return found;
}

/** @param {unknown} value @param {string} where @param {string} conversation @returns {MessageRecord} */
function message(value, where, conversation) {
  if (!isObject(value)) refuse(where, "an object", value);
  const { id, parent, role, state } = value;
  if (typeof id !== "string" || !ID.test(id)) refuse(`${where}.id`, "32 hexadecimal digits", id);
  if (parent !== null && (typeof parent !== "string" || !ID.test(parent))) refuse(`${where}.parent`, "an id or null", parent);
  if (role !== "user" && role !== "assistant") refuse(`${where}.role`, "user or assistant", role);
  /** @type {Omit<MessageRecord, "time">} */
  const said = { id, conversation, parent, role, text: text(value.text, `${where}.text`, TEXT_CHARS_MAX) };
  const record = { ...said, time: time(value.time, `${where}.time`) };
  if (role === "user") return record;
  if (state !== "done" && state !== "length" && state !== "stopped") {
    if (state !== "failed" && state !== "waiting" && state !== "streaming") refuse(`${where}.state`, "how an answer ends", state);
  }
  return {
    ...record,
    state: state === "waiting" || state === "streaming" ? "failed" : state,
    model: value.model === null || value.model === undefined ? null : text(value.model, `${where}.model`, NAME_CHARS_MAX),
    tokens: count(value.tokens, `${where}.tokens`),
    rate: count(value.rate, `${where}.rate`),
    fed: count(value.fed, `${where}.fed`),
    thought: value.thought === undefined ? "" : text(value.thought, `${where}.thought`, TEXT_CHARS_MAX),
    experts: triples(value.experts, `${where}.experts`),
  };
}

/** A question stands at the beginning or below an answer, an answer below a question, and each below an earlier one. */
function wantTree(/** @type {MessageRecord[]} */ messages, /** @type {string} */ where) {
  const byId = new Map(messages.map((each) => [each.id, each]));
  if (byId.size !== messages.length) refuse(where, "ids that differ", "one twice");
  for (const { id, parent, role, time: at } of messages) {
    const above = parent === null ? null : byId.get(parent);
    const fits = above === null ? role === "user" : above !== undefined && above.role !== role && above.time < at;
    if (!fits) refuse(`${where}, message ${id}`, "its place below an earlier message of the other side", parent);
  }
}

/** The same conversation with ids of its own for its messages: a file must not name the messages of another conversation. */
function withOwnIds(/** @type {import("/store.js").Kept} */ { record, messages }) {
  const ids = new Map(messages.map(({ id }) => [id, newId()]));
  const own = (/** @type {string} */ id) => ids.get(id) ?? "";
  const chosen = Object.fromEntries(Object.entries(record.chosen).map(([at, to]) => [own(at), own(to)]));
  const rows = messages.map((each) => ({ ...each, id: own(each.id), parent: each.parent === null ? null : own(each.parent) }));
  return { record: { ...record, chosen }, messages: rows };
}

/** @param {unknown} value @param {string} where @returns {import("/store.js").Kept} */
function conversation(value, where) {
  if (!isObject(value)) refuse(where, "an object", value);
  const { id } = value;
  if (typeof id !== "string" || !ID.test(id)) refuse(`${where}.id`, "32 hexadecimal digits", id);
  if (!Array.isArray(value.messages) || value.messages.length > MESSAGES_MAX) {
    refuse(`${where}.messages`, `a list of at most ${MESSAGES_MAX}`, value.messages);
  }
  const messages = value.messages.map((each, at) => message(each, `${where}.messages[${at}]`, id));
  wantTree(messages, where);
  const ids = new Set(messages.map((each) => each.id));
  const chosen = isObject(value.chosen) ? value.chosen : {};
  const known = Object.entries(chosen).filter(([at, to]) => (at === "" || ids.has(at)) && ids.has(String(to)));
  const record = {
    id,
    title: text(value.title, `${where}.title`, NAME_CHARS_MAX),
    created: time(value.created, `${where}.created`),
    updated: time(value.updated, `${where}.updated`),
    model: value.model === null ? null : text(value.model, `${where}.model`, NAME_CHARS_MAX),
    system: text(value.system ?? "", `${where}.system`, TEXT_CHARS_MAX),
    sampling: sampling(value.sampling ?? {}, `${where}.sampling`),
    chosen: Object.fromEntries(known.map(([at, to]) => [at, String(to)])),
    deleted: null,
  };
  return withOwnIds({ record, messages });
}

/** The conversations of a file's text; throws BadFile. @param {string} raw @returns {import("/store.js").Kept[]} */
export function imported(raw) {
  /** @type {unknown} */
  let value;
  try {
    value = JSON.parse(raw);
  } catch {
    return refuse("file", "JSON", raw.slice(0, 40));
  }
  if (!isObject(value) || value.format !== FORMAT) return refuse("format", FORMAT, isObject(value) ? value.format : value);
  if (value.version !== FILE_VERSION) return refuse("version", String(FILE_VERSION), value.version);
  const list = value.conversations;
  if (!Array.isArray(list) || list.length > CONVERSATIONS_MAX) {
    return refuse("conversations", `a list of at most ${CONVERSATIONS_MAX}`, list);
  }
  return list.map((each, at) => conversation(each, `conversations[${at}]`));
}
