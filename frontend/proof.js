/*
 * Proving, in this browser, that a block belongs to a model, and a model to the chain: from the signed promise of the chains down to
 * the bytes.
 *
 * What it shows is that everything this node says hangs together under one key. What it cannot show is that the node shows everybody
 * the same chain: for that, compare the root with someone else's.
 */

import { decodeObject, fromHex, Malformed, toHex } from "/canonical.js";
import { blobBytes, blobPieces, bundlesOf, jointBytes, leavesOf, modelEntries, proofOf } from "/chain_api.js";
import { Blocked, Checklist, same, Unchecked } from "/checklist.js";
import { verify } from "/ed25519.js";
import { leafHash, NoCrypto, rootOfLeaves, rootOfPath } from "/merkle.js";
import {
  entriesOfBundle,
  entrySignatureHolds,
  jointSignatureHolds,
  noteSignatureHolds,
  parseEntry,
  parseJoint,
  parseNote,
} from "/promises.js";

/**
 * @typedef {import("/promises.js").Entry} Entry
 * @typedef {import("/promises.js").Joint} Joint
 * @typedef {import("/promises.js").ChainName} ChainName
 * @typedef {Awaited<ReturnType<typeof proofOf>>} Inclusion
 * @typedef {{part: string, layer: number | null, expert: number | null, payload: string, bytes: number, state: string,
 *   entry: number | null}} Block
 * @typedef {{id: string, manifest: string}} ModelName
 */

const MANIFEST_BYTES_MAX = 16 * 1024 * 1024;
const META_ENTRIES_MAX = 16_384; // read whole where the key was rotated
const JOINT_ATTEMPTS = 3; // a commit may come between two answers
const YIELD_EVERY_MS = 24;

export const PROMISE_STEPS = ["joint", "key"];
export const VERSION_STEPS = ["version", "version_path", "manifest"];
export const BLOCK_STEPS = ["part", "entry", "entry_signature", "path", "built", "note"];
export const BYTES_STEPS = ["index", "bytes"];

/** @param {Uint8Array | null} root */
const shown = (root) => (root === null ? "" : toHex(root));

/** Loaded when something is hashed with BLAKE3, because only then it is needed. */
const tiles = () => import("/tile_root.js");

/**
 * @template T
 * @param {T | null | undefined} value
 * @returns {T}
 */
function needed(value) {
  if (value === null || value === undefined) throw new Blocked();
  return value;
}

export class Proof extends Checklist {
  /** @type {Joint | null} */
  joint = null;
  /** Keys that may sign entries here, the first one first. @type {string[] | null} */
  keys = null;
  /** Why the keys are not known, where this browser cannot know them. @type {NoCrypto | null} */
  #noKeys = null;
  /** The entry of the model's version, once it was read. @type {Entry | null} */
  version = null;
  /** The manifest, once its bytes were found to be what the version's entry names. @type {{[name: string]: any} | null} */
  manifest = null;
  /** The block's entry. @type {Entry | null} */
  entry = null;
  /** Bytes of the block hashed so far. */
  received = 0;

  /** The chains' promise, and whether its signer may sign here. */
  async checkPromise() {
    await this.check("joint", async () => {
      this.joint = parseJoint(await jointBytes());
      return this.#signed(this.joint.author, await jointSignatureHolds(this.joint));
    });
    await this.check("key", async () => {
      const joint = needed(this.joint);
      this.keys = await keysOf(joint).catch((failure) => {
        if (failure instanceof NoCrypto) this.#noKeys = failure;
        throw failure;
      });
      return same(joint.author, /** @type {string} */ (this.keys.at(-1)));
    });
  }

  /**
   * The newest entry about a model, and its manifest.
   * @param {ModelName} model
   */
  async checkVersion(model) {
    /** @type {Inclusion | null} */
    let inclusion = null;
    let index = -1;
    await this.check("version", async () => {
      index = (await modelEntries(model.id)).at(-1) ?? -1;
      if (index < 0) throw new Malformed(`expected an entry of ${model.id}, found none`);
      inclusion = await proofOf("meta", index, needed(this.joint).heads.meta.size);
      this.version = await parseEntry(inclusion.entry);
      const found = said(this.version);
      const expected = `${this.joint?.network} meta model ${model.id} ${model.manifest}`;
      if (found !== expected) return same(expected, found);
      return this.#signed(this.version.author, await this.#bySequencer(this.version));
    });
    await this.check("version_path", () => this.#standsAt("meta", index, needed(inclusion), needed(this.version)));
    await this.check("manifest", async () => {
      const payload = needed(needed(this.version).payload);
      const { TileHasher } = await tiles();
      const bytes = await blobBytes(payload.id, Math.min(payload.bytes, MANIFEST_BYTES_MAX));
      const hasher = new TileHasher();
      hasher.update(bytes);
      const outcome = same(payload.id, hasher.finish() ?? "");
      if (outcome.holds) this.manifest = decodeObject(bytes);
      return outcome;
    });
  }

  /**
   * That the manifest is made of this block and the parameter chain says so.
   * @param {ModelName} model
   * @param {Block} block
   */
  async checkBlock(model, block) {
    await this.check("part", () => {
      const manifest = needed(this.manifest);
      const listed = block.part === "tokenizer" ? manifest.tokenizer : manifest.parts?.[block.part];
      return same(`${block.part} ${block.payload} ${block.bytes}`, `${block.part} ${listed?.payload} ${listed?.bytes}`);
    });
    /** @type {Inclusion | null} */
    let inclusion = null;
    const index = block.entry ?? -1;
    await this.check("entry", async () => {
      if (index < 0) throw new Malformed(`expected the number of an entry for ${block.part}, found none`);
      inclusion = await proofOf("parameter", index, needed(this.joint).heads.parameter.size);
      this.entry = await parseEntry(inclusion.entry);
      const kind = block.part === "tokenizer" ? "tokenizer" : block.expert === null ? "trunk" : "expert";
      const place = kind === "expert" ? `layer.${block.layer}.expert.${block.expert}` : block.part;
      return same(
        `${this.joint?.network} parameter ${kind} ${model.id} ${place} ${block.payload} ${block.bytes}`,
        said(this.entry),
      );
    });
    await this.check("entry_signature", async () => {
      const entry = needed(this.entry);
      return this.#signed(entry.author, await this.#bySequencer(entry));
    });
    await this.check("path", () => this.#standsAt("parameter", index, needed(inclusion), needed(this.entry)));
    await this.check("built", async () => {
      const { parameter_size: size, parameter_root: root } = needed(this.version).body;
      const { path } = await proofOf("parameter", index, size);
      return same(root, shown(await rootOfPath(index, size, needed(this.entry).leaf, path)));
    });
    await this.check("note", async () => {
      const joint = needed(this.joint);
      const note = parseNote(needed(inclusion).note);
      const { size, root } = joint.heads.parameter;
      const origin = `blyan/${joint.network}/parameter`;
      const outcome = same(`${origin} ${size} ${root}`, `${note.origin} ${note.size} ${note.root}`);
      return outcome.holds ? this.#signed(joint.author, await noteSignatureHolds(note, joint.author)) : outcome;
    });
  }

  /**
   * Promise, version and block in one; again from the start if a commit came between the answers.
   * @param {ModelName} model
   * @param {Block} block
   */
  run(model, block) {
    return this.all(() => this.#run(model, block));
  }

  /**
   * @param {ModelName} model
   * @param {Block} block
   */
  async #run(model, block) {
    for (let attempt = 1; ; attempt += 1) {
      await this.checkPromise();
      await this.checkVersion(model);
      await this.checkBlock(model, block);
      if (this.failed?.id !== "note" || attempt === JOINT_ATTEMPTS) return;
      const promised = this.joint;
      const newer = parseJoint(await jointBytes().catch(() => new Uint8Array(0)));
      if (promised?.sig === newer.sig) return; // nothing came between: the note is what is wrong
    }
  }

  /**
   * Downloads a block and hashes it, subtile by subtile, as it arrives.
   * @param {Block} block
   * @param {AbortSignal} signal
   * @param {() => void} onProgress
   */
  checkBytes(block, signal, onProgress) {
    return this.all(() => this.#checkBytes(block, signal, onProgress));
  }

  /**
   * @param {Block} block
   * @param {AbortSignal} signal
   * @param {() => void} onProgress
   */
  async #checkBytes(block, signal, onProgress) {
    const { payloadId, SUBTILE_BYTES, TileHasher } = await tiles();
    /** @type {Uint8Array[]} */
    let leaves = [];
    await this.check("index", async () => {
      const count = Math.ceil(block.bytes / SUBTILE_BYTES);
      leaves = await leavesOf(block.payload, count);
      if (leaves.length !== count) throw new Malformed(`expected ${count} leaves, found ${leaves.length}`);
      return same(block.payload, payloadId(block.bytes, leaves));
    });
    await this.check("bytes", async () => {
      const hasher = new TileHasher();
      let rested = performance.now();
      for await (const piece of blobPieces(block.payload, block.bytes, signal)) {
        for (let at = 0; at < piece.length; at += SUBTILE_BYTES) {
          hasher.update(piece.subarray(at, at + SUBTILE_BYTES));
          this.received = hasher.length;
          if (performance.now() - rested > YIELD_EVERY_MS) {
            onProgress();
            await new Promise((resolve) => setTimeout(resolve));
            rested = performance.now();
          }
        }
      }
      const found = hasher.finish() ?? "";
      const damaged = hasher.leaves.flatMap((leaf, at) => (toHex(leaf) === toHex(leaves[at] ?? leaf) ? [] : [at]));
      const where = found === block.payload || damaged.length === 0 ? "" : ` (subtile ${damaged.slice(0, 8).join(", ")})`;
      return same(block.payload, found + where);
    });
  }

  /**
   * That an entry of a version stands in the meta chain; for the list of versions.
   * @param {string} id of the check
   * @param {string} model
   * @param {number} index
   * @returns {Promise<Entry | null>}
   */
  async checkRelease(id, model, index) {
    /** @type {Entry | null} */
    let entry = null;
    const holds = await this.check(id, async () => {
      const inclusion = await proofOf("meta", index, needed(this.joint).heads.meta.size);
      entry = await parseEntry(inclusion.entry);
      const expected = `${this.joint?.network} meta model ${model}`;
      const found = said(entry).split(" ").slice(0, 4).join(" ");
      if (found !== expected) return same(expected, found);
      if (!(await this.#bySequencer(entry))) return this.#signed(entry.author, false);
      return this.#standsAt("meta", index, inclusion, entry);
    });
    return holds ? entry : null;
  }

  /**
   * @param {ChainName} chain
   * @param {number} index
   * @param {Inclusion} inclusion
   * @param {Entry} entry
   */
  async #standsAt(chain, index, inclusion, entry) {
    const { size, root } = needed(this.joint).heads[chain];
    return same(root, shown(await rootOfPath(index, size, entry.leaf, inclusion.path)));
  }

  /** @param {Entry} entry */
  async #bySequencer(entry) {
    if (this.#noKeys !== null) throw this.#noKeys;
    return needed(this.keys).includes(entry.author) && (await entrySignatureHolds(entry));
  }

  /**
   * @param {string} author
   * @param {boolean} holds
   */
  #signed(author, holds) {
    return { holds, expected: author, found: holds ? author : "" };
  }
}

/**
 * What an entry says, in one line.
 * @param {Entry} entry
 */
function said({ network, chain, type, body, payload }) {
  const subject = {
    model: () => `${body.name} ${payload?.id}`,
    trunk: () => `${body.model} ${body.part} ${payload?.id} ${payload?.bytes}`,
    expert: () => `${body.model} layer.${body.layer}.expert.${body.expert} ${payload?.id} ${payload?.bytes}`,
    tokenizer: () => `${body.model} tokenizer ${payload?.id} ${payload?.bytes}`,
  }[type];
  return `${network} ${chain} ${type} ${subject === undefined ? "" : subject()}`.slice(0, 600);
}

/**
 * The keys that were the sequencer's, in order: the genesis's author, whose first digits name a local network, then those of the
 * rotations. Throws `Malformed` where the meta chain does not say so.
 * @param {Joint} joint
 */
async function keysOf(joint) {
  const { size, root } = joint.heads.meta;
  const inclusion = await proofOf("meta", 0, size);
  const genesis = await parseEntry(inclusion.entry);
  const computed = shown(await rootOfPath(0, size, genesis.leaf, inclusion.path));
  if (computed !== root) throw new Malformed(`genesis: expected root ${root}, computed ${computed}`);
  const isNamed = !joint.network.startsWith("local-") || joint.network === `local-${genesis.author.slice(0, 16)}`;
  if (genesis.type !== "genesis" || genesis.network !== joint.network || !isNamed) {
    throw new Malformed(`genesis: expected one of ${joint.network}, found one of ${genesis.network} by ${genesis.author}`);
  }
  if (!(await entrySignatureHolds(genesis))) throw new Malformed("genesis: expected its author's signature, found none that verifies");
  if (genesis.author === joint.author) return [genesis.author];
  if (size > META_ENTRIES_MAX) throw new Unchecked("open.long");
  const leaves = [];
  const keys = [genesis.author];
  for await (const bundle of bundlesOf("meta", size)) {
    for (const raw of entriesOfBundle(bundle)) {
      leaves.push(await leafHash(raw));
      const rotation = new TextDecoder().decode(raw).includes('"type":"rotation"') ? await parseEntry(raw) : null;
      if (rotation?.type === "rotation") keys.push(await rotatedTo(rotation, /** @type {string} */ (keys.at(-1))));
    }
  }
  const whole = toHex(await rootOfLeaves(leaves));
  if (leaves.length !== size || whole !== root) throw new Malformed(`meta chain: expected root ${root}, computed ${whole}`);
  return keys;
}

/**
 * The key that a rotation names, which must have agreed to it.
 * @param {Entry} rotation
 * @param {string} old
 */
export async function rotatedTo(rotation, old) {
  const { key, proof } = rotation.body;
  fromHex(key, 32);
  const agreed = new TextEncoder().encode(`{"network":"${rotation.network}","new":"${key}","old":"${old}"}`);
  const holds = rotation.author === old && (await entrySignatureHolds(rotation)) && (await verify(key, "rotation", agreed, proof));
  if (!holds) throw new Malformed(`rotation: expected one signed by ${old} and ${key}, found one that does not verify`);
  return String(key);
}
