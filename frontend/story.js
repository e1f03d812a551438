/*
 * A model's story as plain values, from its manifest after this browser hashed it: nothing here touches the page.
 */

import { modelEntries } from "/chain_api.js";
import { PROMISE_STEPS, Proof, VERSION_STEPS } from "/proof.js";

/**
 * @typedef {import("/promises.js").Entry} Entry
 * @typedef {{index: number, entry: Entry}} Release
 * @typedef {{kind: "embed" | "trunk" | "experts" | "head" | "tokenizer", bytes: number, blocks: number}} Share
 */

const RELEASES_MAX = 64; // the newest; each is proved by its own path

/** What is known of a model, and how: a proof of its manifest and of each of its versions. */
export class Story {
  /** @type {Release[]} newest first */
  releases = [];

  /**
   * @param {{id: string, manifest: string}} model
   * @param {() => void} onChange
   */
  constructor(model, onChange) {
    this.model = model;
    this.onChange = onChange;
    this.proof = new Proof([...PROMISE_STEPS, ...VERSION_STEPS], onChange);
  }

  /** Reads and checks it all. */
  read() {
    return this.proof.all(() => this.#read());
  }

  async #read() {
    await this.proof.checkPromise();
    await this.proof.checkVersion(this.model);
    const found = await modelEntries(this.model.id).catch(() => []);
    for (const index of found.slice(-RELEASES_MAX).reverse()) {
      const id = `release:${index}`;
      this.proof.steps.push({ id, state: "todo", expected: "", found: "", reason: "" });
      const entry = await this.proof.checkRelease(id, this.model.id, index);
      if (entry !== null) this.releases.push({ index, entry });
      this.onChange();
    }
  }
}

/**
 * Where the bytes of a model are, the largest share first.
 * @param {{[name: string]: any}} manifest
 * @returns {Share[]}
 */
export function sharesOf(manifest) {
  /** @type {Map<Share["kind"], Share>} */
  const shares = new Map();
  const add = (/** @type {Share["kind"]} */ kind, /** @type {number} */ bytes) => {
    const share = shares.get(kind) ?? { kind, bytes: 0, blocks: 0 };
    shares.set(kind, { kind, bytes: share.bytes + bytes, blocks: share.blocks + 1 });
  };
  for (const [part, { bytes }] of Object.entries(manifest.parts)) {
    add(part === "embed" || part === "head" ? part : part.includes(".expert.") ? "experts" : "trunk", bytes);
  }
  if (manifest.tokenizer) add("tokenizer", manifest.tokenizer.bytes);
  return [...shares.values()].sort((one, other) => other.bytes - one.bytes);
}

/**
 * Layers of an architecture that have experts.
 * @param {{[name: string]: any}} architecture
 * @returns {number}
 */
export function expertLayers({ layers, moe_layers: listed }) {
  return Array.isArray(listed) ? listed.length : layers;
}
