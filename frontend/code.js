/*
 * Code in an answer: its language, a button that copies it, and colours once it is complete. The highlighter and each language are
 * loaded when the first code that needs them stands; code in an unknown language stays plain.
 */

import { html } from "/vendor/lit-html/lit-html.js";
import { guard } from "/vendor/lit-html/directives/guard.js";
import { copyButton } from "/copy.js";
import { t } from "/i18n.js";
import { redraw } from "/drawing.js";

const HIGHLIGHTED_CHARS_MAX = 100_000;
const LINES_IN_PIECE = 200;

/** The languages that lie in vendor/highlight, by the names that models give them. @type {Record<string, string>} */
const LANGUAGES = {
  bash: "bash", sh: "bash", shell: "bash", zsh: "bash", console: "bash", c: "c", h: "c", cpp: "cpp", "c++": "cpp", cc: "cpp", hpp: "cpp",
  css: "css", diff: "diff", patch: "diff", go: "go", golang: "go", java: "java", javascript: "javascript", js: "javascript",
  jsx: "javascript", mjs: "javascript", json: "json", jsonc: "json", kotlin: "kotlin", kt: "kotlin", markdown: "markdown", md: "markdown",
  php: "php", python: "python", py: "python", python3: "python", ruby: "ruby", rb: "ruby", rust: "rust", rs: "rust", sql: "sql",
  swift: "swift", typescript: "typescript", ts: "typescript", tsx: "typescript", xml: "xml", html: "xml", svg: "xml", yaml: "yaml",
  yml: "yaml",
};

/** A tree of scopes, as the highlighter hands it to an emitter. @typedef {{scope?: string, children: (Scope | string)[]}} Scope */

/** Collects scopes in place of HTML text. */
class ScopeTree {
  /** @type {Scope} */
  root = { children: [] };
  #open = [this.root];

  /** @param {string} text */
  addText(text) {
    if (text !== "") this.#open[this.#open.length - 1].children.push(text);
  }

  /** @param {string} scope */
  startScope(scope) {
    const node = { scope, children: [] };
    this.#open[this.#open.length - 1].children.push(node);
    this.#open.push(node);
  }

  endScope() {
    if (this.#open.length > 1) this.#open.pop();
  }

  /** @param {string} scope */
  openNode(scope) {
    this.startScope(scope);
  }

  closeNode() {
    this.endScope();
  }

  /** Code of one language inside another. @param {ScopeTree} inner @param {string} name */
  __addSublanguage(inner, name) {
    this.#open[this.#open.length - 1].children.push({ scope: name ? `language:${name}` : undefined, children: inner.root.children });
  }

  closeAllNodes() {
    this.#open.length = 1;
  }

  finalize() {
    this.closeAllNodes();
  }

  toHTML() {
    return ""; // nobody reads it
  }
}

/** How many languages have come: what was drawn before one came is drawn anew. */
export const highlighting = { version: 0 };

/** @type {Promise<any> | null} */
let core = null;
/** language → its highlighter, null while it loads, undefined if nobody asked @type {Map<string, any>} */
const ready = new Map();

async function loadCore() {
  const { default: highlighter } = await import("/vendor/highlight/core.js");
  highlighter.configure({ __emitter: ScopeTree });
  return highlighter;
}

/** The highlighter if it has this language; else it is on its way, or will never be there. @param {string} language */
function highlighterFor(language) {
  if (ready.has(language)) return ready.get(language);
  ready.set(language, null);
  core ??= loadCore();
  Promise.all([core, import(`/vendor/highlight/languages/${language}.js`)]).then(
    ([highlighter, { default: grammar }]) => {
      highlighter.registerLanguage(language, grammar);
      ready.set(language, highlighter);
      highlighting.version += 1;
      redraw();
    },
    () => {}, // the node is gone: code stays plain
  );
  return null;
}

/** @param {Scope | string} node @returns {unknown} */
function scopeView(node) {
  if (typeof node === "string") return node;
  const inner = node.children.map(scopeView);
  if (!node.scope || node.scope.startsWith("language:")) return inner;
  return html`<span class=${`hl-${node.scope.split(".")[0].replace(/[^\w-]/g, "")}`}>${inner}</span>`;
}

/** @param {string} text */
function plainView(text) {
  const lines = text.split("\n");
  if (lines.length <= LINES_IN_PIECE && text.length <= HIGHLIGHTED_CHARS_MAX) return text;
  const pieces = [];
  for (let at = 0; at < lines.length; at += LINES_IN_PIECE) pieces.push(lines.slice(at, at + LINES_IN_PIECE).join("\n"));
  return pieces.map((piece) => guard([piece], () => html`<span class="piece">${piece}${"\n"}</span>`));
}

/** @param {string} text @param {string} language @param {any} highlighter */
function highlightedView(text, language, highlighter) {
  const { _emitter } = highlighter.highlight(text, { language, ignoreIllegals: true });
  return _emitter.root.children.map(scopeView);
}

/** A fence that is still open has no closing line. @param {any} token */
function hasEnded({ raw, codeBlockStyle }) {
  return codeBlockStyle === "indented" || /\n {0,3}(```+|~~~+)[ \t]*\n*$/.test(raw.slice(-80));
}

/** @param {any} token of the lexer @param {boolean} isClosed */
export function codeView(token, isClosed) {
  const { text, lang = "" } = token;
  const named = lang.trim().split(/\s+/)[0].slice(0, 40);
  const language = Object.hasOwn(LANGUAGES, named.toLowerCase()) ? LANGUAGES[named.toLowerCase()] : null;
  const wanted = language !== null && (isClosed || hasEnded(token)) && text.length <= HIGHLIGHTED_CHARS_MAX;
  const highlighter = wanted ? highlighterFor(language) : null;
  return html`<figure class="code" data-testid="code">
    <figcaption><bdi>${named || t("md.code")}</bdi>${copyButton(() => text)}</figcaption>
    <pre tabindex="0" role="region" aria-label=${t("md.codeIn", { language: named || t("md.code") })}><code dir="ltr"
      >${guard([text, highlighter], () => (highlighter ? highlightedView(text, language ?? "", highlighter) : plainView(text)))}</code></pre>
  </figure>`;
}
