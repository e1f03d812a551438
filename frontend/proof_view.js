/* A proof as a person reads it: the verdict first, then what it is about, then every check with what was expected and what was found. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { byteSize, t } from "/i18n.js";
import { dateTime, wholeNumber } from "/numbers.js";
import { BYTES_STEPS } from "/proof.js";

/**
 * @typedef {import("/checklist.js").Step} Step
 * @typedef {import("/proof.js").Proof} Proof
 * @typedef {import("/proof.js").Block} Block
 * @typedef {{model: {id: string}, block: Block, proof: Proof, download: AbortController | null}} ProofState
 */

const MARKS = { ok: "✓", bad: "✕", open: "–", blocked: "–", run: "…", todo: "○" };

/**
 * The sentence that a list of checks comes to, said again whenever it changes.
 * @param {string} verdict
 * @param {string} title
 * @param {string} next
 */
export function verdictView(verdict, title, next) {
  const kind = verdict === "part" ? "ok" : verdict;
  return html`<section class=${`verdict ${kind}`} role="status" data-testid="verdict" data-verdict=${verdict}>
    <h3>${title}</h3>
    <p>${next}</p>
  </section>`;
}

/**
 * @param {ProofState} state
 * @param {{onBytes: () => void, onStop: () => void, onAgain: () => void}} handlers
 */
export function proofView({ model, block, proof, download }, { onBytes, onStop, onAgain }) {
  const { verdict, failed } = proof;
  const title = {
    bad: () => t("proof.bad", { step: t(`step.${failed?.id}`) }),
    part: () => t("proof.part.verdict"),
    run: () => t("proof.run"),
    open: () => t("proof.open"),
    ok: () => t("proof.ok"),
  }[verdict]();
  const next = verdict === "run" ? "" : t(`proof.${verdict}.next`);
  const size = byteSize(block.bytes);
  const isDone = BYTES_STEPS.every((id) => proof.steps.find((step) => step.id === id)?.state !== "todo");
  return html`${verdictView(verdict, title, next)} ${download === null ? nothing : progressView(proof, block)}
    <div class="sheet-actions">
      ${download === null
        ? html`<button type="button" class="button send" data-testid="bytes" ?disabled=${proof.isBusy} @click=${onBytes}>
            ${t(isDone ? "proof.bytes.again" : "proof.bytes", { size })}
          </button>`
        : html`<button type="button" class="button" data-testid="bytes-stop" @click=${onStop}>${t("proof.bytes.stop")}</button>`}
      <button type="button" class="button" data-testid="again" ?disabled=${proof.isBusy} @click=${onAgain}>${t("proof.again")}</button>
    </div>
    ${factsView(model, block, proof)}
    <ol class="steps" data-testid="steps">
      ${proof.steps.map((step) => stepView(step, t(`step.${step.id}`), t(`step.${step.id}.why`)))}
    </ol>
    <p class="quiet-text limits">${t("proof.limits")}</p>`;
}

/**
 * @param {Proof} proof
 * @param {Block} block
 */
function progressView({ received }, { bytes }) {
  const words = t("proof.bytes.progress", { done: byteSize(received), size: byteSize(bytes) });
  return html`<p class="progress">
    <progress max=${bytes} .value=${received} aria-label=${words}></progress><span class="quiet-text">${words}</span>
  </p>`;
}

/**
 * @param {{id: string}} model
 * @param {Block} block
 * @param {Proof} proof
 */
function factsView(model, block, { entry, joint }) {
  const row = (/** @type {string} */ key, /** @type {unknown} */ value) =>
    value ? html`<dt>${t(`proof.${key}`)}</dt><dd data-testid=${`proof-${key}`}>${value}</dd>` : nothing;
  const head = joint?.heads.parameter;
  const place = head && block.entry !== null ? t("proof.entry.at", { index: wholeNumber(block.entry), size: wholeNumber(head.size) }) : "";
  return html`<dl class="facts-list">
    ${row("model", `${model.id} · ${block.part}`)} ${row("payload", block.payload)}
    ${row("size", `${byteSize(block.bytes)} (${wholeNumber(block.bytes)} B)`)} ${row("entry", place)}
    ${row("entry.id", entry?.id)} ${row("author", entry?.author)}
    ${row("time", entry ? dateTime(entry.time) : "")} ${row("root", head?.root)}
  </dl>`;
}

/**
 * One check. What failed stands open.
 * @param {Step} step
 * @param {string} title
 * @param {string} why
 */
export function stepView(step, title, why) {
  return html`<li class=${`step ${step.state}`} data-testid="step" data-step=${step.id} data-state=${step.state}>
    <span class="mark" aria-hidden="true">${MARKS[step.state]}</span>
    <div>
      <p class="step-title">${title}<span class="sr-only">: ${t(`mark.${step.state}`)}</span></p>
      ${why === "" ? nothing : html`<p class="quiet-text">${why}</p>`} ${remark(step)} ${values(step)}
    </div>
  </li>`;
}

/** @param {Step} step */
function remark(step) {
  if (step.state === "blocked") return html`<p class="step-reason">${t("open.blocked")}</p>`;
  if (step.reason === "") return nothing;
  return html`<p class="step-reason">${t(step.reason, { found: step.found })}</p>`;
}

/** @param {Step} step */
function values({ state, expected, found, id, reason }) {
  if (state === "bad") {
    const nothingFound = expected !== "" && /signature|joint|key|version$|note/.test(id) ? "proof.unsigned" : "proof.nothing";
    return html`<dl class="values">
      ${expected === "" ? nothing : html`<dt>${t("proof.expected")}</dt><dd data-testid="expected">${expected}</dd>`}
      <dt>${t("proof.found")}</dt>
      <dd data-testid="found">${found === "" ? t(nothingFound) : found}</dd>
    </dl>`;
  }
  if (state !== "ok" || reason !== "") return nothing;
  return html`<p class="value"><span class="sr-only">${t("proof.same")}: </span><code>${expected}</code></p>`;
}
