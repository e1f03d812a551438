/*
 * The experts of one answer: layers x experts, the darker the more tokens; the sum that shows that none was left out; and the same as
 * a table. Keyboard: the ARIA grid pattern, one tab stop and arrow keys. A click or Enter opens the block's proof.
 */

import { html, noChange, nothing } from "/vendor/lit-html/lit-html.js";
import { rowsOf } from "/blocks.js";
import { onGridKey } from "/grid.js";
import { levelOf, scaleOf, shadeOf, sumOf } from "/heat.js";
import { byteSize, language, t } from "/i18n.js";
import { percent, wholeNumber } from "/numbers.js";

/**
 * @typedef {import("/blocks.js").Block} Block
 * @typedef {import("/blocks.js").Row} Row
 * @typedef {{id: string, blyan: {manifest: string, experts_per_token: number}}} Model
 * @typedef {import("/heat.js").Answer & {prompt: string}} Turn
 * @typedef {{model: Model, blocks: Block[], turn: Turn, inspected: Block | null, tableOpen: boolean, drawn: string}} ExpertsState
 */

const NUMBERS_UP_TO = 16; // experts in a row whose cells hold their number
const SOME_UP_TO = 40;
const PROMPT_LETTERS = 120;

/**
 * @param {ExpertsState} state
 * @param {{onInspect: (block: Block | null) => void, onOpen: (block: Block) => void, onTable: (open: boolean) => void}} handlers
 */
export function expertsView(state, handlers) {
  const { model, blocks, turn } = state;
  const { rows } = rowsOf(blocks);
  const prompt = turn.prompt.length > PROMPT_LETTERS ? `${turn.prompt.slice(0, PROMPT_LETTERS)}…` : turn.prompt;
  return html`<p class="sheet-lead">${t("experts.of", { prompt })} <span class="quiet-text">${model.id}</span></p>
    ${turn.work.expertsUsed === 0 || rows.length === 0
      ? html`<p class="quiet-text">${t("experts.none")}</p>`
      : html`${sumView(turn, rows, model.blyan.experts_per_token)} ${mapView(state, rows, handlers)}
          ${readoutView(state)} ${tableView(state, rows, handlers.onTable)}`}`;
}

/**
 * @param {Turn} turn
 * @param {Row[]} rows
 * @param {number} each
 */
function sumView(turn, rows, each) {
  const layers = rows.map(({ layer }) => layer);
  const sum = sumOf(turn, layers, each);
  const all = rows.reduce((count, { cells }) => count + cells.length, 0);
  const verdict = sum.holds ? (sum.isWhole ? "holds" : "open") : sum.isWhole ? "differs" : "open";
  const words = t("experts.sum", { tokens: wholeNumber(sum.tokens), layers: layers.length, each });
  return html`<section class=${`verdict ${sum.holds ? "ok" : verdict === "open" ? "run" : "bad"}`} data-testid="sum" data-state=${verdict}>
    <h3>${t(`experts.sum.${verdict}`)}</h3>
    <p class="equation">
      <span data-testid="sum-words">${words}</span> <b>${sum.found === sum.expected ? "=" : "≠"}</b>
      <span data-testid="sum-found">${t("experts.sum.found", { found: wholeNumber(sum.found) })}</span>
    </p>
    ${sum.found === sum.expected && !sum.holds ? html`<p>${t("experts.sum.uneven")}</p>` : nothing}
    <p class="quiet-text">
      ${sum.isSaid ? t("experts.sum.why") : t("experts.sum.partial")}
      ${t("experts.used", { used: wholeNumber(turn.work.expertsUsed), all: wholeNumber(all) })}. ${busiest(turn, sum.tokens)}
    </p>
  </section>`;
}

/**
 * @param {Turn} turn
 * @param {number} tokens
 */
function busiest({ work }, tokens) {
  const most = work.triples().reduce((one, other) => (other[2] > one[2] ? other : one));
  return `${t("experts.busiest", { layer: most[0], expert: most[1], share: percent(most[2] / tokens) })}.`;
}

/**
 * The map is drawn again only when its numbers change: a large model has thousands of cells, and pointing at one moves no other.
 * @param {ExpertsState} state
 * @param {Row[]} rows
 * @param {{onInspect: (block: Block | null) => void, onOpen: (block: Block) => void}} handlers
 */
function mapView(state, rows, { onInspect, onOpen }) {
  const { turn, blocks } = state;
  const drawn = `${turn.work.revision} ${blocks.length} ${language()}`;
  if (state.drawn === drawn) return noChange;
  state.drawn = drawn;
  const widest = Math.max(...rows.map(({ cells }) => cells.length));
  const size = widest <= NUMBERS_UP_TO ? "few" : widest <= SOME_UP_TO ? "some" : "many";
  const bounds = scaleOf(Math.max(...turn.work.triples().map(([, , tokens]) => tokens)));
  /** @type {Map<string, Block>} */
  const byPart = new Map(rows.flatMap(({ cells }) => cells.map((block) => [block.part, block])));
  const under = (/** @type {Event} */ event) => {
    const cell = /** @type {HTMLElement} */ (event.target).closest("[data-part]");
    return byPart.get(/** @type {HTMLElement | null} */ (cell)?.dataset.part ?? "") ?? null;
  };
  const open = (/** @type {Event} */ event) => {
    const block = under(event);
    if (block !== null) onOpen(block);
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(event);
    } else {
      onGridKey(event);
    }
  };
  const onFocus = (/** @type {FocusEvent} */ event) => {
    const map = /** @type {HTMLElement} */ (event.currentTarget);
    map.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    /** @type {HTMLElement} */ (event.target).closest("[data-part]")?.setAttribute("tabindex", "0");
    onInspect(under(event));
  };
  return html`<div class=${`heat ${size}`}>
      <div
        role="grid"
        class="heat-map"
        data-testid="heat-map"
        aria-label=${t("experts.grid")}
        aria-readonly="true"
        @pointerover=${(/** @type {Event} */ event) => onInspect(under(event))}
        @pointerleave=${() => onInspect(null)}
        @focusin=${onFocus}
        @click=${open}
        @keydown=${onKey}
      >
        ${rulerView(rows, size)}
        ${rows.map(
          ({ layer, cells }, index) => html`<div role="row" class="heat-row">
            <span role="rowheader" class="heat-name"><span class="sr-only">${t("experts.layer")} </span>${layer}</span>
            ${cells.map((block) => cellView(block, turn.work, bounds, index, block === rows[0].cells[0], size))}
          </div>`,
        )}
      </div>
    </div>
    ${legendView(bounds)}`;
}

/**
 * @param {Block} block
 * @param {Turn["work"]} work
 * @param {number[]} bounds
 * @param {number} row
 * @param {boolean} isFirst
 * @param {string} size
 */
function cellView(block, work, bounds, row, isFirst, size) {
  const tokens = work.tokens(Number(block.layer), Number(block.expert));
  const name = t("experts.cell", { layer: String(block.layer), expert: String(block.expert) });
  return html`<span
    role="gridcell"
    class=${`heat-cell h${levelOf(tokens, bounds)}${block.state === "corrupt" ? " corrupt" : ""}`}
    tabindex=${isFirst ? "0" : "-1"}
    aria-label=${`${name}: ${t("experts.tokens", { tokens })}`}
    data-testid="heat-cell"
    data-part=${block.part}
    data-row=${row}
    data-tokens=${tokens}
    >${size === "few" && tokens > 0 ? tokens : nothing}</span
  >`;
}

/**
 * Numbers of experts above the columns, as many as fit.
 * @param {Row[]} rows
 * @param {string} size
 */
function rulerView(rows, size) {
  const step = size === "few" ? 1 : size === "some" ? 4 : 8;
  return html`<div class="heat-row ruler" aria-hidden="true">
    <span class="heat-name"></span>
    ${rows[0].cells.map(({ expert }) => html`<span class="heat-tick">${Number(expert) % step === 0 ? expert : nothing}</span>`)}
  </div>`;
}

/** @param {number[]} bounds */
function legendView(bounds) {
  const range = (/** @type {number} */ at) => {
    const most = (bounds[at + 1] ?? 0) - 1;
    if (at === bounds.length - 1) return `${wholeNumber(bounds[at])}+`;
    return most > bounds[at] ? `${wholeNumber(bounds[at])}–${wholeNumber(most)}` : wholeNumber(bounds[at]);
  };
  return html`<div class="heat-legend">
    <span>${t("experts.scale")}</span>
    <ul>
      <li><i class="heat-cell h0"></i>0</li>
      ${bounds.map((_, at) => html`<li><i class=${`heat-cell h${shadeOf(at, bounds.length)}`}></i>${range(at)}</li>`)}
    </ul>
  </div>`;
}

/** @param {ExpertsState} state */
function readoutView({ inspected, turn, model }) {
  if (inspected === null) return html`<p class="readout quiet-text" data-testid="readout">${t("experts.read")}</p>`;
  const tokens = turn.work.tokens(Number(inspected.layer), Number(inspected.expert));
  const share = tokens / (turn.work.calls(Number(inspected.layer)) / model.blyan.experts_per_token);
  return html`<p class="readout" data-testid="readout">
    <b>${t("experts.cell", { layer: String(inspected.layer), expert: String(inspected.expert) })}</b>
    <span>${t("experts.tokens", { tokens: wholeNumber(tokens) })}</span>
    <span>${t("experts.share", { share: percent(share) })}</span>
    <span>${byteSize(inspected.bytes)}</span>
    <span class=${`state ${inspected.state}`}>${t(`state.${inspected.state}`)}</span>
    <code>${inspected.payload.slice(0, 16)}…</code>
  </p>`;
}

/**
 * @param {ExpertsState} state
 * @param {Row[]} rows
 * @param {(open: boolean) => void} onTable
 */
function tableView({ tableOpen, turn }, rows, onTable) {
  const onToggle = (/** @type {Event} */ event) => onTable(/** @type {HTMLDetailsElement} */ (event.target).open);
  return html`<details class="as-table" ?open=${tableOpen} @toggle=${onToggle}>
    <summary data-testid="table-open">${t("experts.table")}</summary>
    ${tableOpen
      ? html`<div class="wide" tabindex="0" role="region" aria-label=${t("experts.table")}>
          <table data-testid="heat-table">
            <thead>
              <tr>
                <th scope="col">${t("experts.table.layer")}</th>
                <th scope="col" class="number">${t("experts.table.sum")}</th>
                <th scope="col" class="number">${t("experts.table.used")}</th>
                <th scope="col">${t("experts.table.list")}</th>
              </tr>
            </thead>
            <tbody>
              ${rows.map(({ layer, cells }) => tableRow(layer, cells, turn.work))}
            </tbody>
          </table>
        </div>`
      : nothing}
  </details>`;
}

/**
 * @param {number} layer
 * @param {Block[]} cells
 * @param {Turn["work"]} work
 */
function tableRow(layer, cells, work) {
  const used = cells.map(({ expert }) => [Number(expert), work.tokens(layer, Number(expert))]).filter(([, tokens]) => tokens > 0);
  used.sort(([, one], [, other]) => other - one);
  return html`<tr>
    <th scope="row">${layer}</th>
    <td class="number">${wholeNumber(work.calls(layer))}</td>
    <td class="number">${used.length}</td>
    <td class="pairs">${used.map(([expert, tokens]) => html`<span>${expert}: <b>${tokens}</b></span> `)}</td>
  </tr>`;
}
