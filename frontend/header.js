/* The bar at the top: which model answers, and the page's three switches. */

import { html, nothing, svg } from "/vendor/lit-html/lit-html.js";
import { compactNumber, language, t } from "/i18n.js";
import { theme } from "/theme.js";

const icon = (shape) =>
  html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">${shape}</svg>`;
const SUN = svg`<circle cx="12" cy="12" r="4"/><path d="M12 2.5v3M12 18.5v3M2.5 12h3M18.5 12h3M5.3 5.3l2.1 2.1M16.6 16.6l2.1 2.1M5.3 18.7l2.1-2.1M16.6 7.4l2.1-2.1"/>`;
const MOON = svg`<path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z"/>`;
const BOOK = svg`<path d="M12 6.5C9.800 5 6.800 4.500 3.500 5v13.500c3.300-.5 6.300 0 8.500 1.500 2.200-1.500 5.200-2 8.500-1.500V5c-3.300-.5-6.300 0-8.500 1.500zM12 6.500V20"/>`;
const PLUS = svg`<path d="M12 5v14M5 12h14"/>`;

function picker(models, selected, onPick) {
  return html`<select
    class="model-select"
    data-testid="model-picker"
    aria-label=${t("model.pick")}
    @change=${(event) => onPick(event.target.value)}
  >
    ${models.map(({ id }) => html`<option value=${id} .selected=${id === selected.id}>${id}</option>`)}
  </select>`;
}

function modelFacts({ blyan }) {
  const total = compactNumber(blyan.parameters);
  const active = compactNumber(blyan.active_parameters);
  return html`<p class="model-facts" data-testid="model-facts">
    <span data-testid="model-version">v${blyan.version}</span>
    <span data-testid="model-parameters">${t("model.parameters", { total, active })}</span>
    <span
      >${t("model.manifest")} <code data-testid="model-manifest" title=${blyan.manifest}>${blyan.manifest.slice(0, 8)}</code></span
    >
  </p>`;
}

/** `model` is null while the node has not answered, or has none. */
export function headerView({ models, model, isLoading }, { onPick, onNewChat, onLanguage, onTheme, onStory }) {
  const dark = theme() === "dark";
  const themeLabel = t(dark ? "theme.toLight" : "theme.toDark");
  const other = language() === "en" ? "ko" : "en";
  const many = models.length > 1 && model !== null;
  return html`<header class="bar">
    <a class="skip" href="#prompt">${t("skip")}</a>
    <img class="mark" src="/favicon.svg" alt="Blyan" width="34" height="34" />
    <div class="model">
      <h1 class=${many ? "model-title many" : "model-title"}>
        <span data-testid="model-name">${model ? model.id : t(isLoading ? "model.loading" : "model.none")}</span>
        ${many ? picker(models, model, onPick) : nothing}
      </h1>
      ${model ? modelFacts(model) : nothing}
    </div>
    <div class="tools">
      ${model
        ? html`<button type="button" class="button tool" data-testid="story" aria-label=${t("story.open.label")} title=${t("story.open.label")} @click=${onStory}>
            ${icon(BOOK)}<span class="tool-word">${t("story.open")}</span>
          </button>`
        : nothing}
      <button type="button" class="button tool" data-testid="new-chat" aria-label=${t("chat.new")} title=${t("chat.new")} @click=${onNewChat}>
        ${icon(PLUS)}<span class="tool-word">${t("chat.new")}</span>
      </button>
      <button type="button" class="button tool" data-testid="lang" lang=${other} aria-label=${t("lang.label")} title=${t("lang.label")} @click=${onLanguage}>
        ${t("lang.other")}
      </button>
      <button type="button" class="button tool" data-testid="theme" aria-label=${themeLabel} title=${themeLabel} @click=${onTheme}>
        ${icon(dark ? SUN : MOON)}
      </button>
    </div>
  </header>`;
}
