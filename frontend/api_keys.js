/* API keys: made, shown once, deleted. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account, send } from "/account_state.js";
import { ApiError, json } from "/api.js";
import { copyButton } from "/copy.js";
import { announce, redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { sign } from "/money.js";
import { momentOf } from "/statement.js";

/** @typedef {{id: string, name: string, scopes: string[], created_at: number, expires_at: number | null, used_on: string | null, key?: string}} ApiKey */

const DAY_SECONDS = 24 * 3600;
const NAME_CHARS_MAX = 80;
const LASTS_DAYS = /** @type {const} */ ([0, 30, 90, 365]); // 0: until it is deleted

/** @type {{keys: ApiKey[] | null, made: ApiKey | null, deleting: string, failed: string}} */
let ring = { keys: null, made: null, deleting: "", failed: "" };

/** @param {() => Promise<Partial<typeof ring>>} work */
async function change(work) {
  try {
    ring = { ...ring, failed: "", ...(await work()) };
  } catch (failure) {
    if (!(failure instanceof ApiError)) throw failure;
    ring = { ...ring, failed: [failure.message, failure.hint].filter(Boolean).join(" ") || failure.code };
  }
  redraw();
}

/** Reads the account's keys; a secret that was shown is forgotten. */
export function keysOf() {
  ring = { ...ring, made: null, deleting: "" };
  return change(async () => ({ keys: (await json("/auth/keys")).keys }));
}

/** @param {SubmitEvent} event */
async function onMake(event) {
  event.preventDefault();
  const form = /** @type {HTMLFormElement} */ (event.currentTarget);
  const asked = new FormData(form);
  const days = Number(asked.get("days"));
  const expires = days === 0 ? null : Math.floor(Date.now() / 1000) + days * DAY_SECONDS;
  await change(async () => {
    const made = await send("/auth/keys", { name: String(asked.get("name")).trim(), scopes: asked.getAll("scope"), expires_at: expires });
    const { key: _, ...kept } = made;
    form.reset();
    return { made, keys: [...(ring.keys ?? []), kept] };
  });
  if (ring.made !== null) announce(t("key.made"));
}

/** The first press asks, the second deletes. @param {ApiKey} key */
function onDelete({ id }) {
  if (ring.deleting !== id) return change(async () => ({ deleting: id }));
  return change(async () => {
    await json(`/auth/keys?id=${id}`, { method: "DELETE" });
    const made = ring.made?.id === id ? null : ring.made;
    return { keys: (ring.keys ?? []).filter((key) => key.id !== id), deleting: "", made };
  });
}

function madeView() {
  const { made } = ring;
  if (made?.key === undefined) return nothing;
  const text = made.key;
  return html`<div class="made-key" role="status" data-testid="made-key">
    <p><b>${t("key.made")}</b> ${t("key.once")}</p>
    <p class="secret"><code data-testid="key-text">${text}</code>${copyButton(() => text)}</p>
    <p><button type="button" class="button small" data-testid="key-kept" @click=${() => change(async () => ({ made: null }))}>${t("key.kept")}</button></p>
  </div>`;
}

/** @param {ApiKey} key */
function keyView(key) {
  const { id, name, scopes, created_at: made, expires_at: ends, used_on: used } = key;
  const isSure = ring.deleting === id;
  const text = `sk-blyan-${id}-…`;
  const facts = [scopes.map((scope) => t(`scope.${scope}`)).join(", "), t("key.since", { time: momentOf(made) })];
  facts.push(ends === null ? t("key.lasting") : t("key.until", { time: momentOf(ends) }));
  facts.push(used === null ? t("key.unused") : t("key.used", { day: used }));
  return html`<li data-testid="api-key" data-id=${id}>
    <div>
      <p><b dir="auto">${name}</b> <code>${text}</code></p>
      <p class="quiet-text">${facts.join(" · ")}</p>
    </div>
    <button type="button" class=${isSure ? "button small danger" : "button small"} data-testid="key-delete" aria-label=${t(isSure ? "key.sure" : "key.delete", { name })} @click=${() => onDelete(key)}>
      ${t(isSure ? "key.sureShort" : "key.deleteShort")}
    </button>
  </li>`;
}

function formView() {
  const scopes = account.session?.role === "operator" ? ["inference", "account", "models"] : ["inference", "account"];
  return html`<form class="make-key" @submit=${onMake}>
    <label class="field"><span class="field-name">${t("key.name")}</span>
      <input name="name" required maxlength=${NAME_CHARS_MAX} pattern=".*\\S.*" dir="auto" autocomplete="off" data-testid="key-name" placeholder=${t("key.example")} /></label>
    <label class="field"><span class="field-name">${t("key.lasts")}</span>
      <select name="days" data-testid="key-days">${LASTS_DAYS.map((days) => html`<option value=${days}>${days === 0 ? t("key.lasting") : t("key.days", { days })}</option>`)}</select></label>
    <fieldset class="scopes"><legend class="field-name">${t("key.scopes")}</legend>
      ${scopes.map((scope) => html`<label><input type="checkbox" name="scope" value=${scope} ?checked=${scope === "inference"} data-testid=${`scope-${scope}`} /> ${t(`scope.${scope}`)}</label>`)}
    </fieldset>
    <button type="submit" class="button" data-testid="key-make">${sign("key")} ${t("key.make")}</button>
  </form>`;
}

export function keysSection() {
  const { keys, failed } = ring;
  return html`<section class="api-keys">
    <h3>${t("key.title")}</h3>
    <p class="quiet-text">${t("key.about")}</p>
    ${failed === "" ? nothing : html`<p class="excess" role="alert" data-testid="key-failed"><q lang="en" dir="auto">${failed}</q></p>`} ${madeView()}
    ${keys === null || keys.length === 0 ? nothing : html`<ul class="key-list">${keys.map(keyView)}</ul>`} ${formView()}
  </section>`;
}
