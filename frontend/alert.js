/* What went wrong, what it names, and what to do next. At most one alert is shown at a time. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { t } from "/i18n.js";

/** @typedef {"new" | "edit" | "settings" | "models" | "signin" | "account" | "retry"} Remedy what can be done here, in the order of the buttons */

/**
 * Codes of docs/errors.md and of api.js → the name of their words, `error.NAME` and `error.NAME.next`, and what may help. Those that
 * only nodes with accounts give come with account.js.
 * @type {Record<string, [words: string, ...remedies: Remedy[]]>}
 */
export const FAULTS = {
  unreachable: ["unreachable", "retry"],
  stream_broken: ["broken", "retry"],
  no_model: ["none", "retry"],
  context_length_exceeded: ["context", "new", "edit", "settings"],
  payload_too_large: ["large", "new", "edit"],
  invalid_input: ["request", "settings", "retry"],
  unsupported_parameter: ["request", "settings", "retry"],
  usage: ["request"],
  malformed_encoding: ["request"],
  malformed_block: ["request"],
  malformed_entry: ["request"],
  malformed_message: ["request"],
  entry_refused: ["request"],
  idempotency_conflict: ["request"],
  request_timeout: ["slow", "retry"],
  not_found: ["gone", "models"],
  unsupported_model: ["refused", "models"],
  denied: ["denied", "retry"],
  schema_too_new: ["data"],
  index_damaged: ["data"],
  storage_full: ["data", "retry"],
  data_directory_in_use: ["data", "retry"],
  peer_fault: ["peer", "retry"],
  integrity_failure: ["damaged", "retry"],
  block_corrupt: ["damaged", "retry"],
  unavailable: ["unavailable", "retry"],
  queue_full: ["busy", "retry"],
  overloaded: ["busy", "retry"],
  busy: ["busy", "retry"],
  not_held: ["peer", "retry"],
  expert_unavailable: ["peer", "retry"],
  stage_unavailable: ["peer", "retry"],
  not_computable: ["overflow", "edit", "settings"],
  internal_error: ["mistake", "retry"],
  fault: ["mistake", "retry"],
};

/** @param {Alert} alert @returns {[string, ...Remedy[]]} */
function faultOf({ error, refused }) {
  const known = Object.hasOwn(FAULTS, error.code) ? FAULTS[error.code] : null;
  if (refused && known?.[0] !== "damaged") return ["refused"];
  return known ?? (error.retryAfterSeconds === null ? ["other", "retry"] : ["busy", "retry"]);
}

/** @param {DamageDetail} detail */
function damagedBlock(detail) {
  const subtiles = (detail.bad_subtiles ?? []).join(", ");
  const row = (
    /** @type {"part" | "payload" | "file" | "subtiles"} */ key,
    /** @type {string} */ name,
    /** @type {string | undefined} */ value,
  ) =>
    value ? html`<dt>${t(`block.${key}`)}</dt><dd data-testid=${`error-${name}`}>${value}</dd>` : nothing;
  return html`<dl class="facts-list">
    ${row("part", "part", detail.part)} ${row("payload", "payload", detail.payload)} ${row("file", "file", detail.file)}
    ${row("subtiles", "subtiles", subtiles)}
  </dl>`;
}

/**
 * @param {Alert | null} alert
 * @param {{onDismiss: () => void, deeds: Record<Exclude<Remedy, "retry">, () => void>}} doors
 */
export function alertView(alert, { onDismiss, deeds }) {
  if (alert === null) return nothing;
  const { error, retry } = alert;
  const [words, ...remedies] = faultOf(alert);
  const said = [error.message, error.hint].filter(Boolean).join("\n");
  const button = (/** @type {Remedy} */ name) => {
    const deed = name === "retry" ? retry : deeds[name];
    return deed ? html`<button type="button" class="button" data-testid=${name} @click=${deed}>${t(`remedy.${name}`)}</button>` : nothing;
  };
  return html`<section class="alert" role="alert" data-testid="error" data-code=${error.code}>
    <h2>${t(`error.${words}`)}</h2>
    <p data-testid="error-hint">${t(`error.${words}.next`)}</p>
    ${error.detail.payload ? damagedBlock(error.detail) : nothing}
    ${error.retryAfterSeconds === null ? nothing : html`<p>${t("error.retryAfter", { seconds: error.retryAfterSeconds })}</p>`}
    ${said === "" ? nothing : html`<p class="alert-said" data-testid="error-said">${t("error.said")} <q lang="en" dir="auto">${said}</q></p>`}
    ${error.requestId ? html`<p class="alert-said" data-testid="error-log">${t("error.log", { id: error.requestId })}</p>` : nothing}
    <p class="alert-actions">
      ${remedies.map(button)}
      <button type="button" class="button quiet" data-testid="dismiss" @click=${onDismiss}>${t("dismiss")}</button>
    </p>
  </section>`;
}
