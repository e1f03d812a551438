/* The bar at the top: which model answers, and the doors to everything beside the conversation. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { compactNumber, t } from "/i18n.js";
import { icon } from "/icons.js";
import { newChat, openDrawer } from "/library.js";
import { pickModel } from "/models.js";
import { headerTools, menuItems } from "/places.js";
import { openSettings, settingsCount } from "/settings.js";
import { state } from "/state.js";

/** @param {ModelCard[]} models @param {ModelCard} selected */
function picker(models, selected) {
  return html`<select
    class="model-select"
    data-testid="model-picker"
    aria-label=${t("model.pick")}
    @change=${(/** @type {Event} */ event) => pickModel(/** @type {HTMLSelectElement} */ (event.target).value)}
  >
    ${models.map(({ id }) => html`<option value=${id} .selected=${id === selected.id}>${id}</option>`)}
  </select>`;
}

/** @param {ModelCard} model */
function modelFacts({ blyan }) {
  const { parameters, active_parameters: active } = blyan;
  const size =
    parameters === undefined || active === undefined
      ? nothing
      : html`<span data-testid="model-parameters"
          >${t("model.parameters", { total: compactNumber(parameters), active: compactNumber(active) })}</span
        >`;
  return html`<p class="model-facts" data-testid="model-facts">
    <span data-testid="model-version">v${blyan.version}</span> ${size}
    <span
      >${t("model.manifest")} <code data-testid="model-manifest" title=${blyan.manifest}>${blyan.manifest.slice(0, 8)}</code></span
    >
  </p>`;
}

/** @param {{which: "side" | "panel", sign: "list" | "experts", words: string, isOpen: boolean, isDrawer: boolean}} door */
function door({ which, sign, words, isOpen, isDrawer }) {
  return html`<button type="button" class="icon-button" data-testid=${`toggle-${which}`} aria-label=${words} title=${words}
    aria-expanded=${isOpen ? "true" : "false"} aria-controls=${which} @click=${() => openDrawer(which, !isOpen, !isDrawer)}>
    ${icon(sign)}
  </button>`;
}

function menuView() {
  if (menuItems.length === 0) return nothing;
  return html`<button type="button" class="icon-button" data-testid="menu" popovertarget="menu" aria-label=${t("menu")} title=${t("menu")}>
      ${icon("more")}
    </button>
    <div id="menu" class="menu" popover>${menuItems.map((view) => view())}</div>`;
}

/** @param {boolean} isDrawer whether the sides lie over the page */
export function headerView(isDrawer) {
  const { models, model, isLoading } = state;
  const many = models.length > 1 && model !== null;
  const set = settingsCount(state.thread.record);
  const settings = t("settings.title");
  /** @param {MouseEvent} event */
  const skip = (event) => {
    event.preventDefault();
    document.getElementById("prompt")?.focus();
  };
  return html`<header class="bar">
    <a class="skip" href="#prompt" @click=${skip}>${t("skip")}</a>
    ${door({ which: "side", sign: "list", words: t("history.label"), isOpen: state.isSideOpen, isDrawer })}
    <img class="mark" src="/favicon.svg" alt="Blyan" width="30" height="30" />
    <div class="model">
      <h1 class=${many ? "model-title many" : "model-title"}>
        <bdi data-testid="model-name">${model ? model.id : t(isLoading ? "model.loading" : "model.none")}</bdi>
        ${many ? picker(models, model) : nothing}
      </h1>
      ${model ? modelFacts(model) : nothing}
    </div>
    <div class="tools">
      <button type="button" class="button tool" data-testid="new-chat" aria-label=${t("chat.new")} title=${t("chat.new")} @click=${newChat}>
        ${icon("plus")}<span class="tool-word">${t("chat.new")}</span>
      </button>
      ${headerTools.map((view) => view())}
      <button type="button" class="icon-button" data-testid="open-settings" aria-label=${settings} title=${settings} @click=${openSettings}>
        ${icon("settings")}${set > 0 ? html`<span class="count" aria-label=${t("settings.count", { count: set })} role="img">${set}</span>` : nothing}
      </button>
      ${door({ which: "panel", sign: "experts", words: t("grid.title"), isOpen: state.isPanelOpen, isDrawer })} ${menuView()}
    </div>
  </header>`;
}
