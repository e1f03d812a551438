/*
 * The views that only this page has, in one dialog above it: an answer's experts, a block's proof, a model's story.
 *
 * Loaded when the first of them is opened. The dialog keeps its own state and draws itself; the page opens it, and says when its own state changed (`redraw`). A view opened
 * from another has a way back.
 */

import { html, nothing, render } from "/vendor/lit-html/lit-html.js";
import { expertsView } from "/experts_view.js";
import { addWords, t } from "/i18n.js";
import { proofWords } from "/words_proof.js";
import { BLOCK_STEPS, BYTES_STEPS, PROMISE_STEPS, Proof, VERSION_STEPS } from "/proof.js";
import { proofView } from "/proof_view.js";
import { Story } from "/story.js";
import { storyView } from "/story_view.js";

/**
 * @typedef {import("/experts_view.js").ExpertsState} ExpertsState
 * @typedef {import("/proof_view.js").ProofState} ProofState
 * @typedef {import("/story_view.js").StoryState} StoryState
 * @typedef {ExpertsState["model"] & StoryState["card"]} Model
 * @typedef {({kind: "experts"} & ExpertsState) | ({kind: "proof"} & ProofState) | ({kind: "story"} & StoryState)} View
 */

addWords(proofWords);

/** @type {HTMLDialogElement | null} */
let dialog = null;
/** The view that is shown last. @type {View[]} */
let views = [];
/** @type {number | null} */
let frame = null;

/** Draws the dialog once in the next frame; nothing while it is closed. */
export function redraw() {
  if (views.length > 0) frame ??= requestAnimationFrame(draw);
}

/**
 * Which experts worked on an answer.
 * @param {Model} model
 * @param {Block[]} blocks
 * @param {ExpertsState["turn"]} turn
 * @param {string} prompt its question
 */
export function openExperts(model, blocks, turn, prompt) {
  openView({ kind: "experts", model, blocks, turn, prompt, inspected: null, tableOpen: false, drawn: "" });
}

/**
 * The proof of one block, begun at once.
 * @param {Model} model
 * @param {Block} block
 */
export function openProof(model, block) {
  const proof = new Proof([...PROMISE_STEPS, ...VERSION_STEPS, ...BLOCK_STEPS, ...BYTES_STEPS], redraw);
  openView({ kind: "proof", model, block, proof, download: null });
  void proof.run({ id: model.id, manifest: model.blyan.manifest }, block);
}

/**
 * A model's story, read and checked at once.
 * @param {Model} card
 * @param {Block[]} blocks
 */
export function openStory(card, blocks) {
  const story = new Story({ id: card.id, manifest: card.blyan.manifest }, redraw);
  openView({ kind: "story", card, blocks, story });
  void story.read();
}

/** @param {View} view */
function openView(view) {
  if (dialog === null) {
    dialog = document.createElement("dialog");
    dialog.className = "sheet";
    dialog.setAttribute("aria-labelledby", "sheet-title");
    dialog.addEventListener("close", forget);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog?.close());
    document.body.append(dialog);
  }
  views.push(view);
  enter();
  if (!dialog.open) dialog.showModal();
}

/** A view comes into sight: drawn anew, from its beginning, with its title in focus. */
function enter() {
  const view = views.at(-1);
  if (view?.kind === "experts") view.drawn = "";
  draw();
  dialog?.querySelector(".sheet-body")?.scrollTo(0, 0);
  /** @type {HTMLElement | null | undefined} */ (dialog?.querySelector("#sheet-title"))?.focus();
}

function back() {
  const left = views.pop();
  if (left?.kind === "proof") left.download?.abort();
  enter();
  if (left?.kind !== "proof") return;
  const cell = dialog?.querySelector(`.sheet [data-part="${CSS.escape(left.block.part)}"]`);
  /** @type {HTMLElement | null | undefined} */ (cell)?.focus();
}

function forget() {
  for (const view of views) if (view.kind === "proof") view.download?.abort();
  views = [];
  if (dialog !== null) render(nothing, dialog);
}

/** @param {View} view */
function titleOf(view) {
  if (view.kind === "story") return t("story.title", { model: view.card.id });
  if (view.kind === "experts") return t("experts.title");
  const { layer, expert, part } = view.block;
  return expert === null ? `${t("proof.title")}: ${part}` : t("experts.cell", { layer: String(layer), expert: String(expert) });
}

/** @param {View} view */
function bodyOf(view) {
  if (view.kind === "story") return html`<div class="view">${storyView(view)}</div>`;
  if (view.kind === "proof") {
    const again = () => {
      const ids = view.proof.steps.map(({ id }) => id);
      view.proof = new Proof(ids, redraw);
      void view.proof.run({ id: view.model.id, manifest: /** @type {Model} */ (view.model).blyan.manifest }, view.block);
      draw();
    };
    const handlers = { onBytes: () => download(view), onStop: () => view.download?.abort(), onAgain: again };
    return html`<div class="view proof">${proofView(view, handlers)}</div>`;
  }
  const inspect = (/** @type {Block | null} */ block) => {
    if (block === null || block === view.inspected) return;
    view.inspected = block;
    redraw();
  };
  const table = (/** @type {boolean} */ isOpen) => {
    view.tableOpen = isOpen;
    redraw();
  };
  const model = /** @type {Model} */ (view.model);
  const handlers = { onInspect: inspect, onOpen: (/** @type {Block} */ block) => openProof(model, block), onTable: table };
  return html`<div class="view experts">${expertsView(view, handlers)}</div>`;
}

/** @param {{kind: "proof"} & ProofState} view */
async function download(view) {
  view.download = new AbortController();
  view.proof.received = 0;
  const hashing = view.proof.checkBytes(view.block, view.download.signal, redraw);
  draw();
  try {
    await hashing;
  } catch (failure) {
    if (!view.download.signal.aborted) throw failure;
    const step = view.proof.steps.find(({ id }) => id === "bytes");
    Object.assign(step ?? {}, { state: "open", reason: "open.stopped" });
  } finally {
    view.download = null;
    redraw();
  }
}

function draw() {
  frame = null;
  const view = views.at(-1);
  if (dialog === null || view === undefined) return;
  render(
    html`<header class="sheet-bar">
        ${views.length > 1
          ? html`<button type="button" class="button quiet" data-testid="sheet-back" @click=${back}>← ${t("sheet.back")}</button>`
          : nothing}
        <h2 id="sheet-title" tabindex="-1">${titleOf(view)}</h2>
        <button
          type="button"
          class="button quiet close"
          data-testid="sheet-close"
          aria-label=${t("sheet.close")}
          title=${t("sheet.close")}
          @click=${() => dialog?.close()}
        >
          ✕
        </button>
      </header>
      <div
        class="sheet-body"
        data-testid="sheet-body"
        role="region"
        aria-labelledby="sheet-title"
        tabindex=${view.kind === "story" ? "0" : nothing}
      >
        ${bodyOf(view)}
      </div>`,
    dialog,
  );
}
