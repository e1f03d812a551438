/*
 * The key that sends, beside an input method.
 *
 * While a syllable is composed, Enter belongs to the input method. For Japanese and Chinese it accepts a candidate and no more. A
 * Hangul syllable has no candidates: there Enter ends the syllable and sends, once, after the composition. Platforms differ in
 * what they tell: some repeat the key after the composition, some do not, and Safari ends the composition before it tells of the
 * key, by the code 229.
 */

const REPEAT_WITHIN_MS = 50;
const HANGUL_AT_END = /[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]$/;

/**
 * Listeners for the `keydown` and `compositionend` of one text area.
 * @param {() => void} send
 */
export function sendingKeys(send) {
  let isOwed = false;
  let endedMs = -Infinity;
  let wasHangul = false;

  // The platform may repeat the key by itself; then the debt is paid before.
  const sendSoon = () => {
    setTimeout(() => {
      if (isOwed) send();
      isOwed = false;
    }, REPEAT_WITHIN_MS);
  };

  return {
    /** @param {KeyboardEvent} event */
    onKeydown(event) {
      if ((event.key !== "Enter" && event.code !== "Enter") || event.shiftKey) return;
      if (event.isComposing) {
        isOwed = true;
      } else if (event.keyCode === 229) {
        isOwed = wasHangul && event.timeStamp - endedMs < REPEAT_WITHIN_MS;
        if (isOwed) sendSoon();
      } else {
        event.preventDefault();
        isOwed = false;
        send();
      }
    },

    /** @param {CompositionEvent} event */
    onCompositionEnd(event) {
      endedMs = event.timeStamp;
      wasHangul = HANGUL_AT_END.test(event.data);
      isOwed &&= wasHangul;
      if (isOwed) sendSoon();
    },
  };
}
