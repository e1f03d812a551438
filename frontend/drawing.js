/* The one way to show the page anew, and to say something to a screen reader. */

// After a drawing that took longer than a frame, the page rests as long as it worked: input is answered in between.
const DRAWING_MS_MAX = 16;

/** Words for screen readers only. */
export const spoken = { words: "" };

/** @type {() => void} */
let drawNow = () => {};
/** @type {number | null} */
let frame = null;
let restUntil = 0;

/** @param {() => void} draw */
export function drawWith(draw) {
  drawNow = draw;
}

/** Draws at once. */
export function draw() {
  if (frame !== null) cancelAnimationFrame(frame);
  frame = null;
  const began = performance.now();
  drawNow();
  const took = performance.now() - began;
  restUntil = took > DRAWING_MS_MAX ? began + 2 * took : 0;
}

/** Draws once in the next frame, however many tokens arrive until then. */
export function redraw() {
  frame ??= requestAnimationFrame(function tick(now) {
    if (now < restUntil) frame = requestAnimationFrame(tick);
    else draw();
  });
}

/** @param {string} words */
export function announce(words) {
  // The same words again would not be spoken: a change of white space makes them new.
  spoken.words = spoken.words === words ? `${words}\u00a0` : words;
  redraw();
}
