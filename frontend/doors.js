/* The doors to what lies in the dialog above the page: experts, proofs, story. Its code is loaded when it is first wanted. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { t } from "/i18n.js";
import { icon } from "/icons.js";
import { noNode } from "/models.js";
import { answerActions, headerTools } from "/places.js";
import { state } from "/state.js";

/** @typedef {typeof import("/sheet.js")} Sheet */

/** @type {Sheet | null} */
let sheet = null;

/** @param {(sheet: Sheet) => void} show */
async function withSheet(show) {
  try {
    sheet ??= await import("/sheet.js");
  } catch {
    return noNode();
  }
  show(sheet);
}

/** What the dialog shows may have changed with the page. */
export function redrawSheet() {
  sheet?.redraw();
}

/** @param {import("/turn.js").Turn} turn */
function showExperts(turn) {
  const { model, report, thread } = state;
  const question = thread.messages.get(turn.parent);
  const prompt = question?.role === "user" ? question.text : "";
  if (model !== null) withSheet(({ openExperts }) => openExperts(model, report?.blocks ?? [], turn, prompt));
}

/** @param {Block} block */
export function showProof(block) {
  const { model } = state;
  if (model !== null) withSheet(({ openProof }) => openProof(model, block));
}

function showStory() {
  const { model, report } = state;
  if (model !== null) withSheet(({ openStory }) => openStory(model, report?.blocks ?? []));
}

answerActions.push((turn) =>
  turn.work.expertsUsed === 0 || turn.model !== state.model?.id
    ? nothing
    : html`<button type="button" class="icon-button" data-testid="expert-map" aria-label=${t("experts.open")} title=${t("experts.open")}
        @click=${() => showExperts(turn)}>${icon("experts")}</button>`,
);
headerTools.push(() =>
  state.model === null
    ? nothing
    : html`<button type="button" class="icon-button" data-testid="story" aria-label=${t("story.open.label")} title=${t("story.open.label")}
        @click=${showStory}>${icon("book")}</button>`,
);
