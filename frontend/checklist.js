/*
 * A list of checks, each with what was expected and what was found: what a proof is made of. No check is ever skipped in silence.
 *
 * States: `todo` not asked for yet, `run`, `ok`, `bad`, `open` when this browser could not check it (the reason says why), `blocked`
 * when something that it needs was not there.
 */

import { ApiError } from "/api.js";
import { Malformed } from "/canonical.js";
import { NoCrypto } from "/merkle.js";

/**
 * @typedef {"todo" | "run" | "ok" | "bad" | "open" | "blocked"} StepState
 * @typedef {{id: string, state: StepState, expected: string, found: string, reason: string}} Step
 * @typedef {{holds: boolean, expected: string, found: string}} Outcome
 */

/** A check needs what an earlier one did not give. */
export class Blocked extends Error {}

/** This browser was not asked, or is not able, to check; `reason` is a key of the dictionary. */
export class Unchecked extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

export class Checklist {
  /** @type {Step[]} */
  steps;
  /** Whether checks are on their way: until they are done, what holds so far is no verdict. */
  isBusy = false;
  #onChange;

  /**
   * @param {string[]} ids
   * @param {() => void} onChange
   */
  constructor(ids, onChange) {
    this.steps = ids.map((id) => ({ id, state: "todo", expected: "", found: "", reason: "" }));
    this.#onChange = onChange;
  }

  /** The first check that failed, if one did. */
  get failed() {
    return this.steps.find(({ state }) => state === "bad") ?? null;
  }

  /** What all the checks come to. */
  get verdict() {
    const has = (/** @type {StepState} */ state) => this.steps.some((step) => step.state === state);
    if (has("bad")) return "bad";
    if (this.isBusy) return "run";
    if (has("open") || has("blocked")) return "open";
    return has("todo") ? "part" : "ok";
  }

  /**
   * Runs several checks as one.
   * @param {() => Promise<void>} work
   */
  async all(work) {
    this.isBusy = true;
    try {
      await work();
    } finally {
      this.isBusy = false;
      this.#onChange();
    }
  }

  /**
   * Runs one check. Only what is our own mistake, or the person's wish to stop, is thrown.
   * @param {string} id
   * @param {() => Promise<Outcome> | Outcome} work
   * @returns {Promise<boolean>} whether it holds
   */
  async check(id, work) {
    const step = this.steps.find((each) => each.id === id);
    if (step === undefined) throw new Error(`no check ${id}`);
    Object.assign(step, { state: "run", expected: "", found: "", reason: "" });
    this.#onChange();
    try {
      const { holds, expected, found } = await work();
      Object.assign(step, { state: holds ? "ok" : "bad", expected, found });
    } catch (failure) {
      Object.assign(step, refusal(failure));
    }
    this.#onChange();
    return step.state === "ok";
  }
}

/**
 * @param {unknown} failure
 * @returns {Partial<Step>}
 */
function refusal(failure) {
  if (failure instanceof Blocked) return { state: "blocked" };
  if (failure instanceof NoCrypto) return { state: "open", reason: "open.crypto", found: failure.message };
  if (failure instanceof Unchecked) return { state: "open", reason: failure.reason };
  if (failure instanceof Malformed) return { state: "bad", reason: "bad.malformed", found: failure.message };
  if (failure instanceof ApiError) {
    if (failure.code === "unreachable" || failure.code === "stream_broken") return { state: "open", reason: "open.unreachable" };
    return { state: "bad", reason: "bad.refused", found: failure.message || failure.code };
  }
  throw failure;
}

/**
 * Two values that must be the same.
 * @param {string} expected
 * @param {string} found
 * @returns {Outcome}
 */
export function same(expected, found) {
  return { holds: expected === found, expected, found };
}
