/*
 * The blocks of one model and the work of its experts, as plain values: nothing here touches the page.
 *
 * A block is what `/network/experts` lists: {part, layer, expert, payload, bytes, state, bad_subtiles, file}; `expert` is null
 * for a part of the trunk.
 */

/**
 * @typedef {import("/proof.js").Block & {bad_subtiles?: number[], file?: string}} Block
 * @typedef {{layer: number, cells: Block[]}} Row
 */

/**
 * The blocks as the grid shows them: one row of experts per layer, ascending, and the trunk.
 * @param {Block[]} blocks
 * @returns {{rows: Row[], trunk: Block[]}}
 */
export function rowsOf(blocks) {
  /** @type {Map<number, Block[]>} */
  const layers = new Map();
  /** @type {Block[]} */
  const trunk = [];
  for (const block of blocks) {
    if (block.expert === null || block.layer === null) {
      trunk.push(block);
      continue;
    }
    const row = layers.get(block.layer) ?? [];
    row.push(block);
    layers.set(block.layer, row);
  }
  const rows = [...layers.entries()].sort(([a], [b]) => a - b);
  for (const [, row] of rows) row.sort((a, b) => Number(a.expert) - Number(b.expert));
  return { rows: rows.map(([layer, cells]) => ({ layer, cells })), trunk };
}

/**
 * How many of these blocks are in each state.
 * @param {Block[]} blocks
 */
export function countStates(blocks) {
  /** @type {Record<string, number> & {verified: number, unverified: number, corrupt: number, total: number}} */
  const counts = { verified: 0, unverified: 0, corrupt: 0, total: blocks.length };
  for (const block of blocks) counts[block.state] += 1;
  return counts;
}

/**
 * The blocks after the node named a damaged payload in an error's detail. Every part that uses this payload is damaged.
 * @param {Block[]} blocks
 * @param {{payload?: string, part?: string, bad_subtiles?: number[], file?: string}} detail
 */
export function markCorrupt(blocks, detail) {
  return blocks.map((block) =>
    block.payload === detail.payload || block.part === detail.part
      ? { ...block, state: "corrupt", bad_subtiles: detail.bad_subtiles ?? block.bad_subtiles, file: detail.file ?? block.file }
      : block,
  );
}

/**
 * The newer blocks, where those that were seen damaged, with the same payload, stay so.
 * @param {Block[]} older
 * @param {Block[]} newer
 */
export function keepDamage(older, newer) {
  const damaged = new Map();
  for (const block of older) if (block.state === "corrupt") damaged.set(`${block.part} ${block.payload}`, block);
  return newer.map((block) => damaged.get(`${block.part} ${block.payload}`) ?? block);
}

/** Tokens that each expert worked on during one answer, prompt included. */
export class ExpertWork {
  /** "layer.expert" -> tokens @type {Map<string, number>} */
  #tokens = new Map();
  /** layer -> tokens x experts per token @type {Map<number, number>} */
  #layerCalls = new Map();
  /** Keys of the newest chunk @type {Set<string>} */
  #latest = new Set();
  /** Rises with each chunk: what was drawn from an older one is out of date. */
  revision = 0;

  /**
   * Work that was kept, as `triples` gave it.
   * @param {[number, number, number][]} triples
   */
  static from(triples) {
    const work = new ExpertWork();
    work.add(triples);
    work.rest();
    return work;
  }

  /**
   * Adds the `[layer, expert, tokens]` triples of one chunk.
   * @param {[number, number, number][]} triples
   */
  add(triples) {
    this.revision += 1;
    this.#latest = new Set();
    for (const [layer, expert, tokens] of triples) {
      const key = `${layer}.${expert}`;
      this.#tokens.set(key, (this.#tokens.get(key) ?? 0) + tokens);
      this.#layerCalls.set(layer, (this.#layerCalls.get(layer) ?? 0) + tokens);
      this.#latest.add(key);
    }
  }

  /** All of it, to be kept; `ExpertWork.from` reads it. @returns {[number, number, number][]} */
  triples() {
    return [...this.#tokens].map(([key, tokens]) => {
      const [layer, expert] = key.split(".").map(Number);
      return [layer, expert, tokens];
    });
  }

  /** The answer ended: nobody works any more. */
  rest() {
    this.#latest = new Set();
  }

  /**
   * @param {number} layer
   * @param {number} expert
   */
  isWorking(layer, expert) {
    return this.#latest.has(`${layer}.${expert}`);
  }

  /**
   * @param {number} layer
   * @param {number} expert
   */
  tokens(layer, expert) {
    return this.#tokens.get(`${layer}.${expert}`) ?? 0;
  }

  /**
   * Tokens x experts per token of one layer.
   * @param {number} layer
   */
  calls(layer) {
    return this.#layerCalls.get(layer) ?? 0;
  }

  get expertsUsed() {
    return this.#tokens.size;
  }

  /**
   * 0 to 8: the share of the layer's tokens that this expert worked on. The square root keeps the small shares of a model with
   * many experts apart.
   * @param {number} layer
   * @param {number} expert
   * @param {number} expertsPerToken
   */
  heat(layer, expert, expertsPerToken) {
    const tokens = this.tokens(layer, expert);
    if (tokens === 0) return 0;
    const share = Math.min(1, (tokens * expertsPerToken) / this.calls(layer));
    return Math.max(1, Math.round(8 * Math.sqrt(share)));
  }
}
