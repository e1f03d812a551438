/*
 * The view follows a growing answer as long as its end is in sight. Scrolling up lets it go; scrolling to the end, or the button,
 * pins it again.
 */

import { redraw } from "/drawing.js";
import { state } from "/state.js";

const AT_END_PX = 48;

const scrolled = () => document.getElementById("scroll");
let lastTop = 0;
let lastHeight = 0;

/** From now on the view follows. */
export function pinToEnd() {
  state.isAtEnd = true;
}

/** After each drawing: to the end if the view is pinned there. */
export function follow() {
  const scroll = scrolled();
  if (scroll === null) return;
  if (state.isAtEnd) scroll.scrollTop = scroll.scrollHeight;
  lastTop = scroll.scrollTop;
  lastHeight = scroll.scrollHeight;
}

export function onScroll() {
  const scroll = scrolled();
  if (scroll === null) return;
  const { scrollTop, scrollHeight, clientHeight } = scroll;
  const isNear = scrollHeight - scrollTop - clientHeight <= AT_END_PX;
  // Contents that shrink move the view as well; that is nobody's wish to let go.
  const wentUp = scrollTop < lastTop - 1 && scrollHeight >= lastHeight;
  lastTop = scrollTop;
  lastHeight = scrollHeight;
  const isAtEnd = isNear || (state.isAtEnd && !wentUp);
  if (isAtEnd === state.isAtEnd) return;
  state.isAtEnd = isAtEnd;
  redraw();
}

export function jumpToEnd() {
  pinToEnd();
  redraw();
}
