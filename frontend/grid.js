/*
 * Layers x experts: one cell per block. The outline says the block's state (solid, dashed, crossed out), the dot inside how much
 * of the answer went through the expert. Keyboard: the ARIA grid pattern, one tab stop and arrow keys.
 */

import { html, noChange, nothing } from "/vendor/lit-html/lit-html.js";
import { byteSize, language, t } from "/i18n.js";
import { countStates, rowsOf } from "/blocks.js";

// Above this many experts a row wraps, and cells are small.
const EXPERTS_PER_LINE_MAX = 16;

/**
 * @typedef {import("/blocks.js").ExpertWork} ExpertWork
 * @typedef {{onPoint: (part: string | null) => void, onFocus: (part: string | null) => void, onOpen: (block: Block) => void}} CellHandlers
 */

// A large model has thousands of cells and a token touches a few per layer: a cell that looks as it did is left alone. Holds for
// the cells that stand in the page now, hence forgotten with their blocks.
/** @type {{blocks: Block[] | null, layout: ReturnType<typeof rowsOf> | null, looks: Map<string, string>}} */
const drawn = { blocks: null, layout: null, looks: new Map() };

/** @param {Block[]} blocks */
function layoutOf(blocks) {
  if (drawn.blocks !== blocks || drawn.layout === null) {
    drawn.blocks = blocks;
    drawn.layout = rowsOf(blocks);
    drawn.looks.clear();
  }
  return drawn.layout;
}

/** The cells leave the page: when they come back, each is drawn anew. */
export function forgetDrawn() {
  drawn.blocks = null;
}

/** @param {Block} block */
function nameOf(block) {
  return block.expert === null ? block.part : t("cell.name", { layer: block.layer, expert: block.expert });
}

/**
 * @param {Block} block
 * @param {{work: ExpertWork | null, expertsPerToken: number, cursor: string | undefined, rowIndex: number}} row
 */
function cellView(block, { work, expertsPerToken, cursor, rowIndex }) {
  const isExpert = block.expert !== null;
  const [layer, expert] = [Number(block.layer), Number(block.expert)];
  const tokens = isExpert && work ? work.tokens(layer, expert) : 0;
  const heat = isExpert && work ? work.heat(layer, expert, expertsPerToken) : 0;
  const working = isExpert && (work?.isWorking(layer, expert) ?? false);
  const look = `${block.part === cursor} ${tokens} ${heat} ${working} ${language()}`;
  if (drawn.looks.get(block.part) === look) return noChange;
  drawn.looks.set(block.part, look);
  const name = nameOf(block);
  const state = t(`state.${block.state}`);
  return html`<span
    role="gridcell"
    class=${`cell ${block.state} heat-${heat}${working ? " working" : ""}`}
    tabindex=${block.part === cursor ? "0" : "-1"}
    aria-label=${isExpert ? t("cell.label", { name, state, tokens }) : `${name}: ${state}`}
    data-testid=${isExpert ? "cell" : "trunk-cell"}
    data-part=${block.part}
    data-row=${rowIndex}
    data-layer=${block.layer ?? ""}
    data-expert=${block.expert ?? ""}
    data-state=${block.state}
    data-tokens=${tokens}
    data-working=${working ? "true" : "false"}
  ></span>`;
}

/**
 * Moves the focus inside a grid of cells that say their row in `data-row`; returns silently at its edges.
 * @param {KeyboardEvent} event
 */
export function onGridKey(event) {
  const grid = /** @type {HTMLElement} */ (event.currentTarget);
  const cell = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest('[role="gridcell"]'));
  if (cell === null) return;
  const cellsOf = (/** @type {number} */ row) =>
    /** @type {HTMLElement[]} */ ([...grid.querySelectorAll(`[role="gridcell"][data-row="${row}"]`)]);
  const rowIndex = Number(cell.dataset.row);
  const row = cellsOf(rowIndex);
  const column = row.indexOf(cell);
  const otherRow = (/** @type {number} */ offset) => {
    const cells = cellsOf(rowIndex + offset);
    return cells[Math.min(column, cells.length - 1)];
  };
  /** @type {Record<string, (() => HTMLElement | undefined) | undefined>} */
  const moves = {
    ArrowLeft: () => row[column - 1],
    ArrowRight: () => row[column + 1],
    ArrowUp: () => otherRow(-1),
    ArrowDown: () => otherRow(1),
    Home: () => row[0],
    End: () => row.at(-1),
  };
  const target = moves[event.key];
  if (target === undefined) return;
  event.preventDefault();
  target()?.focus();
}

/**
 * @param {{blocks: Block[], work: ExpertWork | null, expertsPerToken: number, cursor: string | null}} state
 * @param {CellHandlers} handlers
 */
function cellsView({ blocks, work, expertsPerToken, cursor }, { onPoint, onFocus, onOpen }) {
  const { rows, trunk } = layoutOf(blocks);
  const tabStop = blocks.some((block) => block.part === cursor) ? (cursor ?? undefined) : (rows[0]?.cells[0] ?? trunk[0])?.part;
  const widest = Math.max(0, ...rows.map(({ cells }) => cells.length));
  const partUnder = (/** @type {Event} */ event) => {
    const cell = /** @type {HTMLElement} */ (event.target).closest(".cell");
    return /** @type {HTMLElement | null} */ (cell)?.dataset.part ?? null;
  };
  const open = (/** @type {Event} */ event) => {
    const block = blocks.find(({ part }) => part === partUnder(event));
    if (block !== undefined) onOpen(block);
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" && event.key !== " ") return onGridKey(event);
    event.preventDefault();
    open(event);
  };
  /**
   * @param {string} header
   * @param {Block[]} cells
   * @param {number} rowIndex
   * @param {string} kind
   */
  const row = (header, cells, rowIndex, kind) =>
    html`<div role="row" class=${`row ${kind}`}>
      <span role="rowheader" class="row-name">${header}</span>
      <span role="presentation" class="row-cells"
        >${cells.map((block) => cellView(block, { work, expertsPerToken, cursor: tabStop, rowIndex }))}</span
      >
    </div>`;
  return html`<div
    role="grid"
    data-testid="grid"
    class=${widest > EXPERTS_PER_LINE_MAX ? "cells many" : "cells"}
    aria-label=${t("grid.label")}
    @pointerover=${(/** @type {Event} */ event) => onPoint(partUnder(event))}
    @pointerleave=${() => onPoint(null)}
    @focusin=${(/** @type {Event} */ event) => onFocus(partUnder(event))}
    @click=${open}
    @keydown=${onKey}
  >
    ${rows.map(({ layer, cells }, index) => row(t("grid.layer", { layer }), cells, index, "layer"))}
    ${trunk.length === 0 ? nothing : row(t("grid.trunk"), trunk, rows.length, "trunk")}
  </div>`;
}

/**
 * @param {Block | undefined} block
 * @param {ExpertWork | null} work
 */
function inspectorView(block, work) {
  if (block === undefined) return html`<p class="inspector quiet-text" data-testid="inspector">${t("grid.inspect")} ${t("grid.open")}</p>`;
  const row = (/** @type {string} */ key, /** @type {unknown} */ value) => (value ? html`<dt>${t(`block.${key}`)}</dt><dd>${value}</dd>` : nothing);
  const tokens = block.expert !== null && work ? String(work.tokens(Number(block.layer), block.expert)) : null;
  return html`<dl class="inspector facts-list" data-testid="inspector">
    ${row("part", block.part)} ${row("payload", block.payload)} ${row("bytes", byteSize(block.bytes))}
    ${row("state", t(`state.${block.state}`))} ${row("subtiles", (block.bad_subtiles ?? []).join(", "))}
    ${row("entry", block.entry === null ? null : t("block.entry.at", { index: block.entry }))}
    ${row("file", block.state === "corrupt" ? block.file : null)} ${row("tokens", tokens)}
  </dl>`;
}

/** @param {BlockReport} report */
function verifiedLine({ blocks, checkpoint }) {
  const experts = countStates(blocks.filter((block) => block.expert !== null));
  const trunk = countStates(blocks.filter((block) => block.expert === null));
  const root = html`<code title=${checkpoint.root}>${checkpoint.root.slice(0, 8)}…</code>`;
  // The root is markup and may stand anywhere in the sentence: cut the sentence there.
  const [before, after] = t("grid.verified", { ...experts, size: checkpoint.size, root: "\u0000" }).split("\u0000");
  const whole = experts.verified === experts.total && trunk.verified === trunk.total;
  const damaged = experts.corrupt + trunk.corrupt;
  return html`<p class=${`verified-line ${damaged > 0 ? "bad" : whole ? "good" : ""}`} data-testid="verified-line">
    ${before}${root}${after}
    ${experts.corrupt > 0 ? html`<strong>${t("grid.corrupt", { count: experts.corrupt })}.</strong>` : nothing}
    ${trunk.verified === trunk.total ? nothing : html`<strong>${t("grid.trunkBad", trunk)}.</strong>`}
  </p>`;
}

function legendView() {
  const item = (/** @type {string} */ kind, /** @type {string} */ words) => html`<li><span class=${`cell ${kind}`} aria-hidden="true"></span>${words}</li>`;
  return html`<ul class="legend">
    ${item("verified", t("state.verified"))} ${item("unverified", t("state.unverified"))} ${item("corrupt", t("state.corrupt"))}
    ${item("plain heat-6", t("state.worked"))}
  </ul>`;
}

/**
 * @param {object | null} turn
 * @param {boolean} isLatest
 */
function caption(turn, isLatest) {
  if (turn === null) return t("grid.idle");
  return t(isLatest ? "grid.answer" : "grid.earlier");
}

/**
 * `report` is the answer of /network/experts, or null; `turn` the answer whose work is shown, or null.
 * @param {{report: BlockReport | null, failed: Error | null, turn: {work: ExpertWork} | null, isLatest: boolean, expertsPerToken: number,
 *   cursor: string | null, inspected: string | null}} state
 * @param {CellHandlers & {onRetry: () => void}} handlers
 */
export function panelView({ report, failed, turn, isLatest, expertsPerToken, cursor, inspected }, { onPoint, onFocus, onOpen, onRetry }) {
  const work = turn?.work ?? null;
  let body;
  if (failed || report === null) forgetDrawn();
  if (failed) {
    body = html`<p data-testid="grid-error">${t("grid.failed")} ${failed.message}</p>
      <p><button type="button" class="button" @click=${onRetry}>${t("remedy.retry")}</button></p>`;
  } else if (report === null) {
    body = html`<p class="quiet-text">${t("grid.loading")}</p>`;
  } else {
    const { blocks } = report;
    body = html`${verifiedLine(report)} ${cellsView({ blocks, work, expertsPerToken, cursor }, { onPoint, onFocus, onOpen })}
      <p class="quiet-text caption">${caption(turn, isLatest)}</p>
      ${legendView()} ${inspectorView(blocks.find((block) => block.part === inspected), work)}`;
  }
  return html`<h2 id="panel-title">${t("grid.title")}</h2>
    ${body}`;
}
