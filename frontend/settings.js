/* A conversation's own settings: what the model is told beforehand, and how its answers are drawn. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { closeDialog, dialogView } from "/dialog.js";
import { redraw } from "/drawing.js";
import { t } from "/i18n.js";
import { complain, sayExcess } from "/lengths.js";
import { state } from "/state.js";
import { change } from "/store.js";

const STOPS_MAX = 16;
const STOP_CHARS_MAX = 256;

/** Name, least, most, step. The node checks again, and says what it expected. */
const NUMBER_FIELDS = /** @type {const} */ ([
  ["temperature", 0, 2, 0.05],
  ["top_p", 0, 1, 0.01],
  ["top_k", 0, 1_000_000, 1],
  ["min_p", 0, 1, 0.01],
  ["max_tokens", 1, 1_000_000, 1],
  ["seed", 0, Number.MAX_SAFE_INTEGER, 1],
  ["frequency_penalty", -2, 2, 0.1],
  ["presence_penalty", -2, 2, 0.1],
  ["repetition_penalty", 0.01, 2, 0.05],
]);

/** @param {FormData} form @returns {SamplingSettings} */
function samplingOf(form) {
  /** @type {SamplingSettings} */
  const sampling = {};
  for (const [name] of NUMBER_FIELDS) {
    const words = String(form.get(name) ?? "").trim();
    if (words !== "" && Number.isFinite(Number(words))) sampling[name] = Number(words);
  }
  const stop = stopsOf(String(form.get("stop") ?? ""));
  if (stop.length > 0) sampling.stop = stop;
  return sampling;
}

/** @param {string} text */
const stopsOf = (text) => text.split("\n").filter((line) => line !== "");

/** @param {Event} event */
function onStops({ target }) {
  const box = /** @type {HTMLTextAreaElement} */ (target);
  const stops = stopsOf(box.value);
  const fits = stops.length <= STOPS_MAX && stops.every(({ length }) => length <= STOP_CHARS_MAX);
  complain(box, fits ? "" : t("settings.stops", { lines: STOPS_MAX, chars: STOP_CHARS_MAX }));
}

/** How many settings differ from the model's own. @param {ConversationRecord} record */
export function settingsCount({ system, sampling }) {
  return Object.keys(sampling).length + (system.trim() === "" ? 0 : 1);
}

/** @param {typeof NUMBER_FIELDS[number]} field @param {SamplingSettings} sampling */
function numberField([name, min, max, step], sampling) {
  return html`<label class="field">
    <span class="field-name">${t(`sampling.${name}`)}</span>
    <input type="number" name=${name} data-testid=${`setting-${name}`} inputmode="decimal" min=${min} max=${max} step=${step === 1 ? 1 : "any"}
      placeholder=${t("settings.default")} .value=${sampling[name] === undefined ? "" : String(sampling[name])}
      aria-describedby=${`about-${name}`} />
    <span class="field-about" id=${`about-${name}`}>${t(`sampling.${name}.about`)}</span>
  </label>`;
}

/** @param {SubmitEvent} event */
function onSubmit(event) {
  event.preventDefault();
  const form = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
  const { thread } = state;
  thread.record.system = String(form.get("system") ?? "");
  thread.record.sampling = samplingOf(form);
  const { system, sampling } = thread.record;
  if (thread.isKept) change(thread.record, { system, sampling });
  closeDialog();
}

/** Empties every field; nothing is kept before the person says so. @param {MouseEvent} event */
function onDefaults(event) {
  const { form } = /** @type {HTMLButtonElement} */ (event.currentTarget);
  for (const field of form?.querySelectorAll("input, textarea") ?? []) {
    if (!(field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement)) continue;
    field.value = "";
    field.setCustomValidity("");
  }
}

export function openSettings() {
  state.dialog = "settings";
  redraw();
}

export function settingsView() {
  if (state.dialog !== "settings") return nothing;
  const { system, sampling } = state.thread.record;
  const body = html`<form class="settings" @submit=${onSubmit}>
    <p class="quiet-text">${t("settings.about")}</p>
    <label class="field wide">
      <span class="field-name">${t("settings.system")}</span>
      <textarea name="system" autofocus data-testid="setting-system" rows="4" dir="auto" placeholder=${t("settings.systemPlaceholder")}
        .value=${system} @input=${sayExcess}></textarea>
    </label>
    <fieldset>
      <legend>${t("settings.sampling")}</legend>
      ${NUMBER_FIELDS.map((field) => numberField(field, sampling))}
      <label class="field wide">
        <span class="field-name">${t("sampling.stop")}</span>
        <textarea name="stop" data-testid="setting-stop" rows="2" dir="auto" aria-describedby="about-stop" @input=${onStops} .value=${(sampling.stop ?? []).join("\n")}></textarea>
        <span class="field-about" id="about-stop">${t("sampling.stop.about")}</span>
      </label>
    </fieldset>
    <footer>
      <button type="button" class="button quiet" data-testid="settings-defaults" @click=${onDefaults}>${t("settings.reset")}</button>
      <button type="button" class="button" @click=${closeDialog}>${t("cancel")}</button>
      <button type="submit" class="button send" data-testid="settings-save">${t("save")}</button>
    </footer>
  </form>`;
  return dialogView(t("settings.title"), body, "settings");
}
