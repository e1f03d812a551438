/*
 * Which node holds which expert, as a further tab of the side panel. Loaded where the node has a peer port. Each cell says by letter,
 * colour and border on which node an expert lies, or by a number on how many. Keyboard: the ARIA grid pattern; a click or Enter opens
 * the block's proof.
 */

import { html, noChange, nothing } from "/vendor/lit-html/lit-html.js";
import { json } from "/api.js";
import { rowsOf } from "/blocks.js";
import { showProof } from "/doors.js";
import { redraw } from "/drawing.js";
import { forgetDrawn, onGridKey } from "/grid.js";
import { addWords, language, t } from "/i18n.js";
import { panels } from "/places.js";
import { state } from "/state.js";
import { nodesWords } from "/words_nodes.js";

/** @typedef {{node: string, reachable: boolean, draining: boolean}} Holder */

const KEY_LETTERS = 12;
const COLOURS = 7; // of others: this node has one of its own
const MANY = 16; // experts in a row that wraps

/** @type {{pointed: string | null, focused: string | null}} */
const seen = { pointed: null, focused: null };

// As in grid.js: a cell that looks as it did is left alone, while the grid that it stands in is the one in the page.
/** @type {{report: BlockReport | null, looks: Map<string, string>}} */
const drawn = { report: null, looks: new Map() };

// What the plans should give, asked for again when it is looked at later.
/** @typedef {{plan: "local" | "dynamic" | "static_delegate" | "pipeline", tokens_per_s: number | null, first_token_s: number}} Prediction */
/** @typedef {{model: string, chosen: string, advice: Record<string, string> | null, predictions: Prediction[], error: {tokens_per_s: number | null}}} Plan */
/** @type {{at: number, said: Plan | null}} */
const planned = { at: 0, said: null };

addWords(nodesWords);
const [experts] = panels;
const expertsAlone = experts.view;
experts.view = () => html`${expertsAlone()}
  ${state.report?.blocks.some((block) => block.state === "elsewhere")
    ? html`<p class="quiet-text elsewhere-line"><span class="cell elsewhere" aria-hidden="true"></span> ${t("nodes.elsewhere")}</p>`
    : nothing}`;
panels.push({ name: "nodes", title: () => t("nodes.title"), view: nodesView });
const style = document.createElement("link");
style.rel = "stylesheet";
style.href = "/nodes.css";
document.head.append(style);

/** A for this node, then B, C, … AA, AB. @param {number} place of a node, 0 for this one @returns {string} */
function letter(place) {
  const last = String.fromCharCode(65 + (place % 26));
  return place < 26 ? last : letter(Math.floor(place / 26) - 1) + last;
}

/** Places of the nodes that answer and hold it: 0 is this one. @param {Block} block @param {Holder[]} nodes */
function holdersOf({ here, nodes: holders }, nodes) {
  const others = (holders ?? []).filter((at) => nodes[at].reachable).map((at) => at + 1);
  return here ? [0, ...others] : others;
}

/** @param {number} place @param {Holder[]} nodes */
function nameOf(place, nodes) {
  return place === 0 ? `${letter(0)} ${t("nodes.self")}` : `${letter(place)} ${nodes[place - 1].node.slice(0, KEY_LETTERS)}`;
}

/** What a cell shows of its holders. @param {number[]} holders @returns {[kind: string, sign: string]} */
function looksOf(holders) {
  if (holders.length === 0) return ["nobody", "–"];
  if (holders.length > 1) return ["several", String(holders.length)];
  const [place] = holders;
  return [`n${place === 0 ? 0 : 1 + ((place - 1) % COLOURS)}`, letter(place)];
}

/** @param {Block | undefined} block @param {Holder[]} nodes */
function inspectorView(block, nodes) {
  if (block === undefined) return html`<p class="inspector quiet-text" data-testid="node-inspector">${t("nodes.inspect")}</p>`;
  const holders = holdersOf(block, nodes);
  return html`<dl class="inspector facts-list" data-testid="node-inspector">
    <dt>${t("block.part")}</dt>
    <dd>${block.part}</dd>
    <dt>${t("block.state")}</dt>
    <dd>${t(`state.${block.state}`)}</dd>
    <dt>${t("nodes.holders")}</dt>
    <dd>${holders.length === 0 ? t("nodes.none") : holders.map((place) => html`<span class="line">${nameOf(place, nodes)}</span>`)}</dd>
  </dl>`;
}

/** @param {Block[]} experts @param {Holder[]} nodes */
function legendView(experts, nodes) {
  const count = (/** @type {number} */ place) =>
    experts.filter(({ here, nodes: holders }) => (place === 0 ? here : holders?.includes(place - 1))).length;
  const item = (/** @type {string} */ kind, /** @type {string} */ sign, /** @type {unknown} */ words) =>
    html`<li><span class=${`holder ${kind}`} aria-hidden="true">${sign}</span> <span>${words}</span></li>`;
  const node = (/** @type {number} */ place) => {
    const { reachable, draining } = place === 0 ? { reachable: true, draining: false } : nodes[place - 1];
    const said = [t("nodes.count", { count: count(place) }), ...(reachable ? [] : [t("nodes.away")]), ...(draining ? [t("nodes.draining")] : [])];
    const [kind, sign] = looksOf([place]);
    return item(`${kind}${reachable ? "" : " away"}`, sign, html`<span class="node-name">${nameOf(place, nodes).slice(sign.length + 1)}</span> · ${said.join(" · ")}`);
  };
  return html`<ul class="nodes-legend" data-testid="nodes-legend">
    ${[0, ...nodes.keys()].map((_, place) => node(place))} ${item("several", "2", t("nodes.several"))} ${item("nobody", "–", t("nodes.none"))}
  </ul>`;
}

/** @param {import("/blocks.js").Row[]} rows @param {Holder[]} nodes */
function gridView(rows, nodes) {
  const cells = rows.flatMap((row) => row.cells);
  const tabStop = cells.some(({ part }) => part === seen.focused) ? seen.focused : cells[0].part;
  const under = (/** @type {Event} */ event) =>
    /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest(".holder"))?.dataset.part ?? null;
  const look = (/** @type {"pointed" | "focused"} */ how, /** @type {string | null} */ part) => {
    if (seen[how] === part) return;
    seen[how] = part;
    redraw();
  };
  const open = (/** @type {Event} */ event) => {
    const block = cells.find(({ part }) => part === under(event));
    if (block !== undefined) showProof(block);
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" && event.key !== " ") return onGridKey(event);
    event.preventDefault();
    open(event);
  };
  if (drawn.report !== state.report || document.querySelector(".nodes-grid") === null) drawn.looks.clear();
  drawn.report = state.report;
  const cell = (/** @type {Block} */ block, /** @type {number} */ rowIndex) => {
    const drawnAs = `${block.part === tabStop} ${language()}`;
    if (drawn.looks.get(block.part) === drawnAs) return noChange;
    drawn.looks.set(block.part, drawnAs);
    const holders = holdersOf(block, nodes);
    const [kind, sign] = looksOf(holders);
    const words = holders.length === 0 ? t("nodes.none") : holders.map((place) => nameOf(place, nodes)).join(", ");
    const name = t("cell.name", { layer: block.layer, expert: block.expert });
    return html`<span role="gridcell" class=${`holder ${kind}`} tabindex=${block.part === tabStop ? "0" : "-1"} data-row=${rowIndex} data-part=${block.part}
      data-testid="holder" data-holders=${holders.join(" ")} aria-label=${t("nodes.cell", { name, holders: words })}>${sign}</span>`;
  };
  return html`<div
    role="grid"
    class=${Math.max(...rows.map((row) => row.cells.length)) > MANY ? "nodes-grid cells many" : "nodes-grid cells"}
    data-testid="nodes-grid"
    aria-label=${t("nodes.grid")}
    @pointerover=${(/** @type {Event} */ event) => look("pointed", under(event))}
    @pointerleave=${() => look("pointed", null)}
    @focusin=${(/** @type {Event} */ event) => look("focused", under(event))}
    @click=${open}
    @keydown=${onKey}
  >
    ${rows.map(
      ({ layer, cells: row }, index) => html`<div role="row" class="row layer">
        <span role="rowheader" class="row-name">${t("grid.layer", { layer })}</span>
        <span role="presentation" class="row-cells">${row.map((block) => cell(block, index))}</span>
      </div>`,
    )}
  </div>`;
}

/** The plan that answers, how fast, and whether this node alone is faster than with others. */
function planView() {
  const model = state.model?.id ?? "";
  if (planned.at < Date.now()) {
    planned.at = Date.now() + 5000;
    json(`/network/plan?model=${encodeURIComponent(model)}`).then(
      (said) => {
        planned.said = said;
        redraw();
      },
      () => {},
    );
  }
  const { said } = planned;
  const best = said?.predictions.find(({ plan }) => plan === said.chosen);
  if (!said || !best || said.model !== model) return nothing;
  const { plan: chosen, tokens_per_s: rate, first_token_s: first } = best;
  const plan = t(`plan.${chosen}`);
  const off = said.error.tokens_per_s; // in the median of the last answers
  const number = (/** @type {number} */ value) => Number(value.toPrecision(2));
  return html`<p class="quiet-text" data-testid="nodes-plan">
    ${rate === null ? t("nodes.unmeasured", { plan }) : t("nodes.plan", { plan, rate: number(rate), first: number(first), off: off === null ? "" : ` (±${number(100 * off)}%)` })}
    ${said.advice?.[language()]}
  </p>`;
}

function nodesView() {
  forgetDrawn(); // the other map's cells leave the page with it
  const { report } = state;
  const rows = report === null ? [] : rowsOf(report.blocks).rows;
  const nodes = report?.nodes ?? [];
  if (rows.length === 0) return html`<h2>${t("nodes.title")}</h2><p class="quiet-text">${t("grid.loading")}</p>`;
  const experts = rows.flatMap((row) => row.cells);
  const lost = experts.filter((block) => holdersOf(block, nodes).length === 0).length;
  const inspected = experts.find(({ part }) => part === (seen.pointed ?? seen.focused));
  return html`<h2>${t("nodes.title")}</h2>
    <p class="nodes-lead" data-testid="nodes-lead">${t("nodes.lead", { here: experts.filter(({ here }) => here).length, total: experts.length })}</p>
    ${planView()}
    ${lost > 0 ? html`<p class="verified-line bad" data-testid="nodes-nobody">${t("nodes.nobody", { count: lost })}</p>` : nothing}
    ${gridView(rows, nodes)} ${legendView(experts, nodes)} ${inspectorView(inspected, nodes)}`;
}
