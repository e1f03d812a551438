/*
 * Markdown as it grows, without ever making or parsing HTML: the lexer's tokens become templates, element by element. Markup in
 * an answer is shown letter by letter, an image is a link that nothing follows by itself.
 *
 * Only the end of a growing text is read again: a block that two others follow cannot change any more. A block too long to be
 * read as marks is shown as plain text, in pieces that the browser lays out when they come into sight.
 */

import { Lexer, Tokenizer } from "/vendor/marked/marked.js";
import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { guard } from "/vendor/lit-html/directives/guard.js";
import { codeView, highlighting } from "/code.js";
import { redraw } from "/drawing.js";
import { language, t } from "/i18n.js";

/** @typedef {import("/vendor/marked/marked.js").Token} Token */
/** @typedef {Record<string, {href: string, title: string | undefined}>} Links */

const MARKED_CHARS_MAX = 16_384; // of one block; its marks are searched in time that may grow with the square
const BLOCK_CHARS_MAX = 262_144; // of the part that may still change
const PIECE_CHARS = 4096;
const GROUP_BLOCKS = 32; // blocks that are drawn, or left alone, together
const GROUPS_PER_FRAME = 16;
const CELLS_MAX = 8192; // of one table
/** @type {Record<string, string>} */
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", mdash: "—", ndash: "–", times: "×" };

/** Rows are filled up to the columns of the first, so that a text of twelve kilobytes could make millions of cells. */
class SmallTables extends Tokenizer {
  /** @param {string} src */
  table(src) {
    const [, header = "", , body = ""] = this.rules.block.table.exec(src) ?? [];
    return header.split("|").length * (body.split("\n").length + 1) > CELLS_MAX ? undefined : super.table(src);
  }
}

const OPTIONS = { gfm: true, breaks: true, tokenizer: new SmallTables() };

/** @param {string} text */
const plainToken = (text) => /** @type {Token} */ ({ type: "plain", raw: text });

/** @param {string} text @param {Links} links @returns {Token[]} */
function tokensOf(text, links) {
  const lexer = new Lexer(OPTIONS);
  try {
    Object.assign(lexer.tokens.links, links);
    lexer.blockTokens(text, lexer.tokens);
    for (const { src, tokens } of lexer.inlineQueue) {
      if (src.length <= MARKED_CHARS_MAX) lexer.inlineTokens(src, tokens);
      else tokens.push(plainToken(src));
    }
    return [...lexer.tokens];
  } catch (failure) {
    // Nested deeper than the stack: shown as it came.
    if (failure instanceof RangeError) return [plainToken(text)];
    throw failure;
  }
}

/** How many tokens at the beginning no further text can change. @param {Token[]} tokens */
function settledCount(tokens) {
  let blocks = 0;
  for (let at = tokens.length - 1; at >= 0; at--) {
    if (tokens[at].type !== "space") blocks += 1;
    if (blocks === 2) return at;
  }
  return 0;
}

/** The tokens of a text that grows at its end. */
export class MarkdownText {
  #chars = 0;
  #settledChars = 0;
  /** The line that opened the code in which the settled part ends. */
  #fence = "";
  /** @type {Token[][]} */
  groups = [[]];
  /** @type {Token[]} */
  tail = [];
  isWhole = false;
  /** How many groups stand in the page. */
  shownGroups = 0;
  /** How many of them have the colours of all languages that came. */
  freshGroups = 0;
  version = 0;
  /** @type {Links} */
  #links = {};

  /** @param {string} text what it is now: the former text, and perhaps more @param {boolean} isWhole nothing comes after it */
  update(text, isWhole) {
    const plain = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    if (plain.length === this.#chars && isWhole === this.isWhole) return;
    this.#chars = plain.length;
    this.isWhole = isWhole;
    // A whole text of usual length is read once more from its beginning: then no cut of the stream has left a trace.
    if (isWhole && plain.length <= BLOCK_CHARS_MAX) this.#restart();
    while (plain.length - this.#settledChars > BLOCK_CHARS_MAX) {
      this.#settleSome(plain.slice(this.#settledChars, this.#settledChars + BLOCK_CHARS_MAX));
    }
    const tokens = this.#read(plain.slice(this.#settledChars));
    const settled = isWhole ? 0 : settledCount(tokens);
    for (const token of tokens.slice(0, settled)) this.#settle(token);
    this.tail = tokens.slice(settled);
  }

  #restart() {
    this.#settledChars = 0;
    this.#fence = "";
    this.#links = {};
    this.groups = [[]];
  }

  /** @param {string} rest of the text after what is settled */
  #read(rest) {
    const tokens = tokensOf(this.#fence + rest, this.#links);
    // The line that stands for the settled part of a code is no text of its own.
    if (this.#fence !== "" && tokens.length > 0) tokens[0].raw = tokens[0].raw.slice(this.#fence.length);
    return tokens;
  }

  /** The beginning of a long rest: its blocks, or a part of a block that is too long. @param {string} part */
  #settleSome(part) {
    const tokens = this.#read(part);
    const settled = settledCount(tokens);
    for (const token of tokens.slice(0, settled)) this.#settle(token);
    if (settled > 0) return;
    const [only] = tokens;
    const cut = part.lastIndexOf("\n") + 1 || part.length;
    const opening = this.#fence || /^ {0,3}(?:```|~~~)[^\n]*\n/.exec(part)?.[0];
    if (only?.type !== "code" || opening === undefined) return this.#settle(plainToken(part.slice(0, cut)));
    const text = part.slice(this.#fence === "" ? opening.length : 0, cut);
    this.#settle(/** @type {Token} */ ({ ...only, text, raw: part.slice(0, cut) }));
    this.#fence = opening;
  }

  /** @param {Token} token */
  #settle(token) {
    this.#settledChars += token.raw.length;
    this.#fence = "";
    // The first definition of a name counts.
    if (token.type === "def") this.#links[token.tag] ??= { href: token.href, title: token.title };
    const last = this.groups[this.groups.length - 1];
    if (last.length < GROUP_BLOCKS) last.push(token);
    else this.groups.push([token]);
  }
}

/** @param {MarkdownText} markdown */
export function markdownView(markdown) {
  const { groups, tail, isWhole } = markdown;
  // A long text that is there at once is drawn in some frames, so that none of them takes seconds; so are its colours.
  const shown = Math.min(groups.length, markdown.shownGroups + GROUPS_PER_FRAME);
  if (markdown.version !== highlighting.version) {
    markdown.version = highlighting.version;
    markdown.freshGroups = 0;
  }
  const fresh = Math.min(shown, markdown.freshGroups + GROUPS_PER_FRAME);
  markdown.shownGroups = shown;
  markdown.freshGroups = fresh;
  if (fresh < groups.length) redraw();
  const views = groups.slice(0, shown).map((group, at) => groupView(group, at < fresh ? markdown.version : -1));
  if (shown < groups.length) return html`${views}`;
  return html`${views}${tail.map((token) => blockView(token, isWhole))}`;
}

/** @param {Token[]} group @param {number} version of the colours it is drawn with */
function groupView(group, version) {
  return guard([group, group.length, language(), version], () => group.map((token) => blockView(token, true)));
}

/** @param {string} text */
function piecesView(text) {
  const pieces = [];
  for (let at = 0; at < text.length; at += PIECE_CHARS) pieces.push(text.slice(at, at + PIECE_CHARS));
  return html`<div class="pieces" dir="auto">${pieces.map((piece) => html`<div class="piece">${piece}</div>`)}</div>`;
}

/** @param {any} token @param {boolean} isClosed nothing can come after it inside */
function blockView(token, isClosed) {
  switch (token.type) {
    case "space":
    case "def":
      return nothing;
    case "paragraph":
      return html`<p dir="auto">${inline(token.tokens)}</p>`;
    case "text":
      return token.tokens ? html`${inline(token.tokens)}` : html`${characters(token.text)}`;
    case "heading":
      // Below the heading of the answer, and never one level skipped, which would mislead a screen reader.
      return html`<h3 class=${`d${token.depth}`} dir="auto">${inline(token.tokens)}</h3>`;
    case "code":
      return codeView(token, isClosed);
    case "blockquote":
      return html`<blockquote dir="auto">${blocks(token.tokens, isClosed)}</blockquote>`;
    case "list":
      return itemsView(token, isClosed);
    case "table":
      return tableView(token);
    case "hr":
      return html`<hr />`;
    case "plain":
      return piecesView(token.raw);
    default:
      return html`<p class="raw" dir="auto">${token.raw.replace(/\n+$/, "")}</p>`;
  }
}

/** @param {any[]} tokens @param {boolean} isClosed @returns {unknown[]} */
function blocks(tokens, isClosed) {
  return tokens.map((token, at) =>
    token.type === "checkbox" ? checkbox(token) : blockView(token, isClosed || at < tokens.length - 1),
  );
}

/** @param {any} token @param {boolean} isClosed */
function itemsView({ ordered, start, items }, isClosed) {
  const views = items.map((/** @type {any} */ item, /** @type {number} */ at) => {
    const inner = blocks(item.tokens, isClosed || at < items.length - 1);
    return html`<li class=${item.task ? "task" : ""} dir="auto">${inner}</li>`;
  });
  const first = Number.isSafeInteger(start) && start > 1 ? start : 1;
  return ordered ? html`<ol start=${first}>${views}</ol>` : html`<ul>${views}</ul>`;
}

/** @param {{header: any[], rows: any[][]}} token */
function tableView({ header, rows }) {
  const cell = (/** @type {any} */ { tokens, align }) => html`<td class=${align ?? ""} dir="auto">${inline(tokens)}</td>`;
  return html`<div class="table" role="region" tabindex="0" aria-label=${t("md.table")}><table>
    <thead><tr>${header.map(({ tokens, align }) => html`<th scope="col" class=${align ?? ""} dir="auto">${inline(tokens)}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map(cell)}</tr>`)}</tbody>
  </table></div>`;
}

/** @param {{checked: boolean}} token */
function checkbox({ checked }) {
  const words = t(checked ? "md.done" : "md.open");
  return html`<span class=${checked ? "box checked" : "box"} role="img" aria-label=${words}></span>`;
}

/** References to characters as HTML has them: the numbers, and the names that models write. @param {string} text */
function characters(text) {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(\w{2,8}));/g, (whole, decimal, hex, name) => {
    if (name !== undefined) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
    const code = decimal === undefined ? Number.parseInt(hex, 16) : Number(decimal);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
  });
}

/** The address if a link may lead there. @param {string} href @returns {string | null} */
function safeAddress(href) {
  return /^(https?:\/\/|mailto:)/i.test(href) ? href : null;
}

/** @param {string} href @param {unknown} words */
function linkView(href, words) {
  const address = safeAddress(href);
  if (address === null) return html`<bdi>${words}</bdi>`;
  return html`<a href=${address} title=${address} target="_blank" rel="noopener noreferrer nofollow"><bdi>${words}</bdi></a>`;
}

/** @param {any[]} tokens @returns {unknown[]} */
function inline(tokens) {
  return tokens.map((token) => {
    switch (token.type) {
      case "text":
        return token.tokens ? inline(token.tokens) : characters(token.text);
      case "escape":
        return token.text;
      case "strong":
        return html`<strong>${inline(token.tokens)}</strong>`;
      case "em":
        return html`<em>${inline(token.tokens)}</em>`;
      case "del":
        return html`<del>${inline(token.tokens)}</del>`;
      case "codespan":
        return html`<code dir="auto">${token.text}</code>`;
      case "br":
        return html`<br />`;
      case "link":
        return linkView(token.href, inline(token.tokens));
      case "image":
        return linkView(token.href, t("md.image", { words: token.text || token.href }));
      case "checkbox":
        return checkbox(token);
      case "plain":
        return piecesView(token.raw);
      default:
        return token.raw;
    }
  });
}
