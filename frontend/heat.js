/*
 * One answer's experts as numbers: does the map add up, and how warm is each cell. Values only; nothing here touches the page.
 */

/**
 * @typedef {import("/blocks.js").ExpertWork} ExpertWork
 * @typedef {{work: ExpertWork, state: string, promptTokens?: number | null, completionTokens: number | null}} Answer
 */

export const LEVELS = 7;

/**
 * What an answer's map must add up to: tokens x layers x experts per token. The last token of an answer is not fed back. Where the
 * node did not say how many tokens there were (the answer was stopped), the busiest layer says it, and the others must agree.
 * @param {Answer} answer
 * @param {number[]} layers those with experts
 * @param {number} each experts for each token
 */
export function sumOf({ work, promptTokens, completionTokens, state }, layers, each) {
  const calls = layers.map((layer) => work.calls(layer));
  const found = work.triples().reduce((sum, [, , tokens]) => sum + tokens, 0);
  const isSaid = typeof promptTokens === "number" && completionTokens !== null && completionTokens > 0;
  const tokens = isSaid ? promptTokens + completionTokens - 1 : Math.max(0, ...calls) / each;
  const expected = tokens * layers.length * each;
  const isWhole = state === "done" || state === "length" || state === "stopped";
  return { tokens, expected, found, isSaid, isWhole, holds: found === expected && calls.every((one) => one === tokens * each) };
}

/**
 * The least number of tokens of each level, rising; fewer levels where the numbers are small. The steps widen, because a few experts
 * do most of the work.
 * @param {number} most tokens of the busiest expert
 */
export function scaleOf(most) {
  /** @type {number[]} */
  const bounds = [];
  for (let level = 0; level < LEVELS; level += 1) {
    const bound = Math.max((bounds.at(-1) ?? 0) + 1, Math.ceil(most * (level / LEVELS) ** 1.5));
    if (bound <= most) bounds.push(bound);
  }
  return bounds;
}

/**
 * The shade of a number of tokens, 0 for none to LEVELS for the most.
 * @param {number} tokens
 * @param {number[]} bounds
 */
export function levelOf(tokens, bounds) {
  const at = bounds.findLastIndex((bound) => bound <= tokens);
  return at < 0 ? 0 : shadeOf(at, bounds.length);
}

/**
 * The shade of one step of a scale: the last is always the strongest.
 * @param {number} step
 * @param {number} steps
 */
export function shadeOf(step, steps) {
  return steps === 1 ? LEVELS : 1 + Math.round((step * (LEVELS - 1)) / (steps - 1));
}
