/* Which models the node has, which one answers, the state of its blocks, and what to do when the node is not there. */

import { ApiError, blocksOf, isAlive, listModels, unreached } from "/api.js";
import { openAccounts } from "/accounts.js";
import { keepDamage, markCorrupt } from "/blocks.js";
import { redraw } from "/drawing.js";
import { remember, remembered } from "/preferences.js";
import { change } from "/store.js";
import { state } from "/state.js";

const ASK_AGAIN_MS = 3000;

/** @type {ReturnType<typeof setTimeout> | null} */
let asking = null;

/** A failure of the API as it is; any other is our own mistake, and goes on. @param {unknown} failure @returns {ApiError} */
export function asApiError(failure) {
  if (failure instanceof ApiError) return failure;
  throw failure;
}

/** @param {ApiError} error @param {(() => void) | null} retry @param {boolean} [refused] the node does not serve this model */
export function fail(error, retry, refused = false) {
  state.alert = { error, retry, refused };
  if (error.detail.payload && state.report !== null) {
    state.report = { ...state.report, blocks: markCorrupt(state.report.blocks, error.detail) };
  }
  if (error.code === "unreachable") waitForNode(retry);
  redraw();
}

/** A part of the page did not come. */
export const noNode = () => fail(new ApiError({ code: "unreachable", message: "" }), null);

/** Asks now and then whether the node is back: then the alert goes, and what the page could not load is loaded. @param {(() => void) | null} retry */
function waitForNode(retry) {
  if (asking !== null) return;
  asking = setTimeout(async () => {
    asking = null;
    if (state.alert?.error.code !== "unreachable") return;
    if (!(await isAlive())) return waitForNode(retry);
    if (state.model === null) return load();
    // A question is not sent again without the person: it may have been answered and paid for.
    state.alert = null;
    redraw();
  }, ASK_AGAIN_MS);
}

/** Reads the node's models and opens one. */
export async function load() {
  state.isLoading = true;
  state.alert = null;
  redraw();
  try {
    [state.models] = await Promise.all([listModels(), openAccounts()]);
  } catch (failure) {
    fail(asApiError(failure), load);
  }
  state.isLoading = false;
  const wanted = state.thread.record.model ?? remembered("model");
  state.model = state.models.find(({ id }) => id === wanted) ?? state.models[0] ?? null;
  if (state.model === null && state.alert === null) {
    state.alert = { error: new ApiError({ code: "no_model", message: "" }), refused: false, retry: load };
  }
  redraw();
  if (state.model !== null) await openModel(state.model);
}

/** @param {ModelCard} model */
async function openModel({ id, blyan }) {
  state.report = null;
  await loadBlocks(id);
  if (blyan.state === "refused" && blyan.reason && state.model?.id === id) fail(ApiError.from(blyan.reason), null, true);
}

/**
 * Damage that this page saw outlives a report, until a whole answer (`damageIsPast`) shows that the block was repaired.
 * @param {string} modelId
 * @param {boolean} [damageIsPast]
 */
export async function loadBlocks(modelId, damageIsPast = false) {
  /** @type {BlockReport | null} */
  let report = null;
  state.reportFailure = null;
  try {
    report = await blocksOf(modelId);
    if (report.nodes) await import("/nodes.js").catch(unreached);
  } catch (failure) {
    if (state.model?.id === modelId) state.reportFailure = asApiError(failure);
  }
  // The person may have picked another model while this report was on its way.
  if (report !== null && state.model?.id === modelId) {
    const seen = damageIsPast ? [] : (state.report?.blocks ?? []);
    state.report = { ...report, blocks: keepDamage(seen, report.blocks) };
  }
  redraw();
}

/** The model for this conversation from its next answer on. @param {string} id */
export function pickModel(id) {
  const model = state.models.find((each) => each.id === id);
  if (model === undefined || model === state.model) return;
  state.model = model;
  state.alert = null;
  state.thread.record.model = id;
  if (state.thread.isKept) change(state.thread.record, { model: id });
  remember("model", id);
  redraw();
  openModel(model);
}
