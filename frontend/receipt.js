/*
 * A receipt, checked in this browser from public data alone (docs/spec/receipt.md): the checks of `blyan receipt verify`, by the same
 * names. The file brings what was signed and sealed; the request, the answer and the salt are this browser's own.
 */

import { decodeObject, encode, fromHex, Malformed, toHex } from "/canonical.js";
import { jointBytes, proofOf } from "/chain_api.js";
import { Blocked, Checklist, same, Unchecked } from "/checklist.js";
import { verify } from "/ed25519.js";
import { leafHash, rootOfPath, sha256 } from "/merkle.js";
import { amountOf, perMillion, unitsOf } from "/money.js";
import { entrySignatureHolds, jointSignatureHolds, parseEntry, parseJoint } from "/promises.js";
import { rotatedTo } from "/proof.js";

/**
 * @typedef {import("/promises.js").Entry} Entry
 * @typedef {{[name: string]: any}} Json
 * @typedef {{request: string | null, output: string, salt: string, amount: string}} Own what this browser sent, got and was shown
 */

export const SCALE = 8;
export const RECEIPT_STEPS = ["file", "signature", "shown", "cost", "record", "amount", "inclusion", "checkpoint", "writer", "promise"];
RECEIPT_STEPS.push("gateway", "model", "price", "origin", "request", "output");
const FILE = "checkpoint proof receipt signature";
const FIELDS = "account charged completion_tokens gateway id manifest model nodes output plan price prompt_tokens record request time v";
const PROOF = "index path record root size v";
const UNITS = /^(0|[1-9]\d{0,18})$/;
const FILE_CHARS_MAX = 1024 * 1024;

/** @param {unknown} value @param {string} names @param {string} what @returns {Json} */
function fieldsOf(value, names, what) {
  const found = Object.keys(Object(value)).sort().join(" ");
  if (found !== names) throw new Malformed(`${what}: expected ${names}, found ${found.slice(0, 200)}`);
  return /** @type {Json} */ (value);
}

/** @param {unknown} value */
const bytesOfValue = (value) => new TextEncoder().encode(encode(value));

/** The form of a receipt file. @param {string} text */
export function parseReceipt(text) {
  if (text.length > FILE_CHARS_MAX) throw new Malformed(`receipt: expected at most ${FILE_CHARS_MAX} letters`);
  const { receipt, signature, proof, checkpoint } = fieldsOf(decodeObject(new TextEncoder().encode(text)), FILE, "file");
  const said = fieldsOf(receipt, FIELDS, "receipt");
  fieldsOf(said.price, "asset completion_per_million entry prompt_per_million", "price");
  for (const name of ["gateway", "manifest", "request", "output"]) fromHex(said[name], 32);
  fromHex(said.id, 16);
  fromHex(signature, 64);
  for (const amount of [said.charged, said.price.prompt_per_million, said.price.completion_per_million]) {
    if (typeof amount !== "string" || !UNITS.test(amount)) throw new Malformed("receipt: expected amounts");
  }
  for (const count of [said.prompt_tokens, said.completion_tokens, said.time]) {
    if (!Number.isSafeInteger(count) || count < 0) throw new Malformed("receipt: expected counts");
  }
  if (said.v !== 1 || !Array.isArray(said.nodes) || (said.record === null) !== (proof === null)) throw new Malformed("receipt: expected version 1, nodes, a proof");
  if (proof !== null) fieldsOf(proof, PROOF, "proof");
  const { meta } = fieldsOf(checkpoint, "joint meta", "checkpoint");
  if (!Array.isArray(meta)) throw new Malformed("checkpoint: expected entries");
  return { receipt: said, signature, proof: /** @type {Json | null} */ (proof), checkpoint: /** @type {{joint: Json, meta: Json[]}} */ (checkpoint) };
}

/** The canonical list of one choice: what the output's digest covers. @param {string} content @param {string} reasoning */
export const outputText = (content, reasoning) => encode([{ content, reasoning, tool_calls: [] }]);

export class ReceiptProof extends Checklist {
  /** @type {ReturnType<typeof parseReceipt> | null} */
  file = null;
  /** @type {import("/promises.js").Joint | null} */
  #joint = null;
  /** Keys that could write, the first one first. @type {string[]} */
  #keys = [];
  /** @type {Entry[]} */
  #entries = [];

  /** @param {() => void} onChange */
  constructor(onChange) {
    super(RECEIPT_STEPS, onChange);
  }

  /** @param {string} text the file @param {Own} own */
  run(text, own) {
    return this.all(async () => {
      await this.check("file", () => {
        this.file = parseReceipt(text);
        return same(this.file.receipt.id, this.file.receipt.id);
      });
      await this.#ofReceipt(own);
      await this.#ofBooks();
      await this.#ofChain();
      await this.#ofNetwork();
      await this.check("request", () => this.#digest("request", own.request, own.salt));
      await this.check("output", () => this.#digest("output", own.output, own.salt));
    });
  }

  get #receipt() {
    if (this.file === null) throw new Blocked();
    return this.file.receipt;
  }

  get #proof() {
    const { record } = this.#receipt;
    if (record === null) throw new Unchecked("receipt.nothing");
    return /** @type {Json} */ (this.file?.proof);
  }

  /** @param {Own} own */
  async #ofReceipt(own) {
    await this.check("signature", async () => {
      const { gateway } = this.#receipt;
      const holds = await verify(gateway, "receipt", bytesOfValue(this.#receipt), /** @type {string} */ (this.file?.signature));
      return { holds, expected: gateway, found: holds ? gateway : "" };
    });
    await this.check("shown", () => same(amountOf(unitsOf(own.amount, SCALE), SCALE), amountOf(BigInt(this.#receipt.charged), SCALE)));
    await this.check("cost", () => {
      const { prompt_tokens: prompt, completion_tokens: completion, price, charged, plan, nodes } = this.#receipt;
      const cost = perMillion(BigInt(price.prompt_per_million), BigInt(price.completion_per_million), prompt, completion);
      const sum = (/** @type {string} */ name) => nodes.reduce((/** @type {number} */ all, /** @type {Json} */ node) => all + node[name], 0);
      const worked = plan === "local" ? ` ${sum("prompt_tokens")} ${sum("completion_tokens")}` : ` ${prompt} ${completion}`;
      return same(`${cost} ${prompt} ${completion}`, charged + worked);
    });
  }

  async #ofBooks() {
    const record = () => decodeObject(new TextEncoder().encode(this.#proof.record));
    await this.check("record", () => {
      const { seq, kind, key } = record();
      const { index } = this.#proof;
      const number = this.#receipt.record;
      return same(`${number} ${number} settle receipt ${this.#receipt.id}`, `${index} ${seq} ${kind} ${key}`);
    });
    await this.check("amount", () => {
      const { entries } = record();
      const amounts = Array.isArray(entries) ? entries.map((entry) => Object(entry)[2]) : [];
      const { charged } = this.#receipt;
      // one leg: what one account pays, another gets
      return same(`-${charged} ${charged}`, amounts.sort().join(" "));
    });
    await this.check("inclusion", async () => {
      const { index, size, root, path } = this.#proof;
      const hashes = path.map((/** @type {unknown} */ each) => fromHex(each, 32));
      const computed = await rootOfPath(index, size, await leafHash(new TextEncoder().encode(this.#proof.record)), hashes);
      return same(root, computed === null ? "" : toHex(computed));
    });
  }

  async #ofChain() {
    await this.check("checkpoint", async () => {
      const joint = parseJoint(bytesOfValue(this.file === null ? this.#receipt : this.file.checkpoint.joint));
      const holds = await jointSignatureHolds(joint);
      if (holds) this.#joint = joint;
      return { holds, expected: joint.author, found: holds ? joint.author : "" };
    });
    await this.check("writer", async () => {
      const joint = this.#promised;
      /** @type {string[]} */
      const keys = [];
      let last = -1;
      for (const { index, entry, path } of this.file?.checkpoint.meta ?? []) {
        const found = await this.#written(index, last, entry, path, keys);
        this.#entries.push(found);
        keys.push(...(found.type === "rotation" ? [await rotatedTo(found, /** @type {string} */ (keys.at(-1)))] : []));
        last = index;
      }
      const outcome = same(joint.author, keys.at(-1) ?? "");
      if (outcome.holds) this.#keys = keys;
      return outcome;
    });
    await this.check("promise", () => {
      const { size, root } = this.#proof;
      const promised = this.#promised && this.file?.checkpoint.joint.ledger_root;
      return same(`${promised?.size} ${promised?.root}`, `${size} ${root}`);
    });
  }

  /** One entry of the meta chain, in its place and by the key of its time. @param {number} index @param {number} last @param {unknown} value @param {unknown[]} path @param {string[]} keys */
  async #written(index, last, value, path, keys) {
    const { network, heads } = this.#promised;
    const entry = await parseEntry(bytesOfValue(value));
    const computed = await rootOfPath(index, heads.meta.size, entry.leaf, path.map((each) => fromHex(each, 32)));
    const wrong = (/** @type {string} */ what) => new Malformed(`entry ${index}: expected ${what}, found another`);
    if (!(index > last) || computed === null || toHex(computed) !== heads.meta.root) throw wrong("its place under the meta chain's root");
    if (entry.network !== network || entry.chain !== "meta" || (entry.type === "genesis") !== (index === 0)) throw wrong(`one of ${network}`);
    if (index === 0) {
      if (network.startsWith("local-") && network !== `local-${entry.author.slice(0, 16)}`) throw wrong(`the key that ${network} is named after`);
      keys.push(entry.author);
    }
    if (entry.author !== keys.at(-1) || !(await entrySignatureHolds(entry))) throw wrong(`one signed by ${keys.at(-1)}`);
    return entry;
  }

  get #promised() {
    if (this.#joint === null) throw new Blocked();
    return this.#joint;
  }

  get #writers() {
    if (this.#keys.length === 0) throw new Blocked();
    return this.#keys;
  }

  async #ofNetwork() {
    await this.check("gateway", () => {
      const { gateway } = this.#receipt;
      return same(gateway, this.#writers.includes(gateway) ? gateway : this.#writers.join(" "));
    });
    await this.check("model", () => {
      const { model, manifest } = this.#receipt;
      const named = this.#writers && this.#entries.filter(({ type }) => type === "model").map(({ body, payload }) => `${body.name} ${payload?.id}`);
      if (named.length === 0) throw new Unchecked("receipt.noModel");
      const said = `${model} ${manifest}`;
      return same(said, named.includes(said) ? said : named.join(" "));
    });
    await this.check("price", () => {
      const { price, model } = this.#receipt;
      const set = this.#writers && this.#entries.find(({ id }) => id === price.entry);
      if (price.entry === null) throw new Unchecked("receipt.noPrice");
      if (set === undefined) return same(price.entry, "");
      const { name, subject, value } = set.body;
      return same(`price ${model} ${price.asset} ${price.prompt_per_million} ${price.completion_per_million}`, `${name} ${subject} ${value}`);
    });
    await this.check("origin", async () => {
      const [first] = this.#writers;
      const joint = parseJoint(await jointBytes());
      const { entry } = await proofOf("meta", 0, joint.heads.meta.size);
      return same(first, (await parseEntry(entry)).author);
    });
  }

  /** @param {"request" | "output"} what @param {string | null} given @param {string} salt */
  async #digest(what, given, salt) {
    const expected = this.#receipt[what];
    if (given === null) throw new Unchecked("receipt.long");
    const domain = new TextEncoder().encode(`blyan v1 receipt ${what}\0`);
    const bytes = new TextEncoder().encode(given);
    return same(expected, toHex(await sha256(new Uint8Array([...domain, ...fromHex(salt, 32), ...bytes]))));
  }
}
