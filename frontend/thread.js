/*
 * A conversation as a tree: an edited question or an answer that was asked for again stands beside the former one, and `chosen`
 * says which of them is shown. Values only: nothing here touches the page or the disk.
 */

import { Turn } from "/turn.js";

const FIRST_TITLE_CHARS_MAX = 80;

/** @typedef {MessageRecord & {role: "user"}} Question */
/** @typedef {Question | Turn} Message */

/** @returns {string} */
export function newId() {
  // randomUUID exists in secure contexts only; a node may be reached through a plain tunnel.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The first words of a question, on one line. @param {string} text */
export function titleOf(text) {
  const line = text.slice(0, 4 * FIRST_TITLE_CHARS_MAX).replace(/\s+/g, " ").trim();
  const letters = [...line];
  return letters.length <= FIRST_TITLE_CHARS_MAX ? line : `${letters.slice(0, FIRST_TITLE_CHARS_MAX - 1).join("")}…`;
}

export class Thread {
  /** False until its first message: then it has no place in the history. */
  isKept = false;
  /** Ids of its answers that another tab writes. @type {string[]} */
  elsewhere = [];
  /** @type {Map<string, Message>} */
  messages = new Map();
  /** @type {Map<string, Message[]>} */
  #children = new Map();

  /** @param {ConversationRecord} record */
  constructor(record) {
    this.record = record;
  }

  /** @param {string | null} model @param {Partial<ConversationRecord>} [settings] */
  static begin(model, settings = {}) {
    const now = Date.now();
    const bare = { title: "", system: "", sampling: {}, chosen: {}, deleted: null };
    return new Thread({ id: newId(), created: now, updated: now, ...bare, ...settings, model });
  }

  /** @param {ConversationRecord} record @param {MessageRecord[]} messages @param {Set<string>} held answers that a tab writes */
  static from(record, messages, held) {
    const thread = new Thread(record);
    thread.isKept = true;
    const byTime = [...messages].sort((a, b) => a.time - b.time || (a.id < b.id ? -1 : 1));
    for (const message of byTime) {
      if (message.role === "user") thread.#add(/** @type {Question} */ (message));
      else {
        const turn = Turn.from(message, held.has(message.id));
        thread.#add(turn);
        if (turn.isOpen) thread.elsewhere.push(turn.id);
      }
    }
    return thread;
  }

  /** @param {Message} message */
  #add(message) {
    const at = message.parent ?? "";
    this.messages.set(message.id, message);
    this.#children.set(at, [...(this.#children.get(at) ?? []), message]);
  }

  /** What is shown: from the first question down the chosen branches. @returns {Message[]} */
  path() {
    /** @type {Message[]} */
    const path = [];
    for (let at = ""; ; ) {
      const options = this.#children.get(at);
      if (options === undefined) return path;
      const next = options.find(({ id }) => id === this.record.chosen[at]) ?? options[options.length - 1];
      path.push(next);
      at = next.id;
    }
  }

  /** The messages down to this one, itself included. @param {Message} message @returns {Message[]} */
  pathTo(message) {
    /** @type {Message[]} */
    const path = [];
    for (let at = /** @type {Message | undefined} */ (message); at; at = this.messages.get(at.parent ?? "")) path.unshift(at);
    return path;
  }

  /** A message and those that stand in its place. @param {Message} message @returns {Message[]} */
  siblings({ parent }) {
    return this.#children.get(parent ?? "") ?? [];
  }

  /** @param {Message} message */
  choose(message) {
    this.record.chosen = { ...this.record.chosen, [message.parent ?? ""]: message.id };
  }

  /** Adds a question below `parent` (null: at the beginning) and shows it. @param {string | null} parent @param {string} text */
  ask(parent, text) {
    /** @type {Question} */
    const question = { id: newId(), conversation: this.record.id, parent, role: "user", text, time: this.#nextTime() };
    if (this.record.title === "") this.record.title = titleOf(text);
    this.#add(question);
    this.choose(question);
    return question;
  }

  /** Adds an answer to a question and shows it. @param {Question} question @param {string | null} model */
  answer(question, model) {
    const identity = { id: newId(), conversation: this.record.id, parent: question.id, time: this.#nextTime(), model };
    const turn = new Turn(identity);
    this.#add(turn);
    this.choose(turn);
    this.record.updated = Date.now();
    return turn;
  }

  /** Takes an answer away that never got a word. @param {Turn} turn */
  drop(turn) {
    this.messages.delete(turn.id);
    const left = this.siblings(turn).filter((other) => other !== turn);
    if (left.length > 0) this.#children.set(turn.parent, left);
    else this.#children.delete(turn.parent);
  }

  /** Later than every message here, though the clock was set back: their order is their time. */
  #nextTime() {
    let latest = 0;
    for (const { time } of this.messages.values()) latest = Math.max(latest, time);
    return Math.max(Date.now(), latest + 1);
  }

  /**
   * What the model is sent to answer the last of `path`, or to go on with it: the system prompt, and every question that got an
   * answer with it.
   * @param {Message[]} path
   * @returns {ChatMessage[]}
   */
  messagesFor(path) {
    const answered = path.filter((message, at) => message.text !== "" && path[at + 1]?.text !== "");
    const said = answered.map(({ role, text }) => ({ role, content: text }));
    const system = this.record.system.trim();
    return system === "" ? said : [{ role: "system", content: system }, ...said];
  }
}
