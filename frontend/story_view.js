/* A model's story: where it comes from, what it is, what it cost to make it smaller, where its bytes are, and what of that is verified. */

import { html, nothing, svg } from "/vendor/lit-html/lit-html.js";
import { countStates } from "/blocks.js";
import { byteSize, compactNumber, t } from "/i18n.js";
import { dateTime, fromMicro, percent, wholeNumber } from "/numbers.js";
import { stepView, verdictView } from "/proof_view.js";
import { expertLayers, sharesOf } from "/story.js";

/**
 * @typedef {import("/story.js").Story} Story
 * @typedef {{id: string, blyan: {version: string, family: string, manifest: string, parameters?: number, active_parameters?: number}}} Card
 * @typedef {{card: Card, blocks: import("/blocks.js").Block[], story: Story}} StoryState
 */

const BAR_WIDTH = 1000;

/** @param {StoryState} state */
export function storyView({ card, blocks, story }) {
  const { proof } = story;
  const manifest = proof.manifest;
  return html`${headline(card)} ${storyVerdict(story)}
    <div class="story">
      ${manifest === null ? nothing : html`${originView(manifest, story)} ${shapeView(manifest, card)} ${quantizationView(manifest)}`}
      ${manifest === null ? nothing : bytesView(manifest)} ${versionsView(story)} ${checkedView(proof, blocks)}
    </div>`;
}

/** @param {Card} card */
function headline({ blyan }) {
  const { family, parameters, active_parameters: active } = blyan;
  if (parameters === undefined || active === undefined) return html`<p class="sheet-lead">${t("story.lead.short", { family })}</p>`;
  return html`<p class="sheet-lead">
    ${t("story.lead", { family, total: compactNumber(parameters), active: compactNumber(active) })}
  </p>`;
}

/** @param {Story} story */
function storyVerdict({ proof }) {
  const { verdict, failed } = proof;
  if (verdict === "bad") {
    const [id, index] = String(failed?.id).split(":");
    return verdictView("bad", t("story.bad", { step: t(`step.${id}`, { version: `#${index}` }) }), t("story.bad.next"));
  }
  if (verdict === "run") return verdictView("run", t("story.loading"), "");
  if (verdict === "open") return verdictView("open", t("proof.open"), t("proof.open.next"));
  return verdictView("ok", t("story.good"), t("story.good.next"));
}

/**
 * @param {string} key
 * @param {unknown} value
 */
const fact = (key, value) => html`<dt>${t(`story.${key}`)}</dt><dd data-testid=${`story-${key}`}>${value}</dd>`;

/**
 * @param {{[name: string]: any}} manifest
 * @param {Story} story
 */
function originView(manifest, { proof }) {
  return html`<section>
    <h3>${t("story.origin")}</h3>
    <dl class="facts-list words">
      ${fact("source", manifest.source === "" ? t("story.source.none") : manifest.source)}
      ${fact("license", manifest.license === "" ? t("story.license.none") : manifest.license)}
      ${fact("author", html`<code>${proof.version?.author}</code>`)} ${fact("manifest", html`<code>${proof.version?.payload?.id}</code>`)}
    </dl>
  </section>`;
}

/**
 * @param {{[name: string]: any}} manifest
 * @param {Card} card
 */
function shapeView({ architecture: shape, dtype, quantization }, { blyan }) {
  const { parameters: total, active_parameters: active } = blyan;
  return html`<section>
    <h3>${t("story.shape")}</h3>
    <dl class="facts-list words">
      ${total === undefined || active === undefined
        ? nothing
        : fact("parameters", t("story.parameters.value", { total: wholeNumber(total), active: wholeNumber(active) }))}
      ${fact("layers", t("story.layers.value", { layers: shape.layers, moe: expertLayers(/** @type {any} */ (shape)) }))}
      ${fact("experts", t("story.experts.value", { experts: shape.experts, each: shape.experts_per_token }))}
      ${fact("context", t("story.context.value", { tokens: wholeNumber(shape.context_length) }))}
      ${fact("dtype", quantization ? `${dtype} + ${quantization.scheme}` : dtype)}
    </dl>
  </section>`;
}

/** @param {{[name: string]: any}} manifest */
function quantizationView({ quantization: made, dtype }) {
  if (!made) {
    return html`<section data-testid="story-quantization">
      <h3>${t("story.quantization")}</h3>
      <p>${t("story.quantization.none", { dtype })}</p>
    </section>`;
  }
  const { scheme, group, method = "round", loss_before: before = 0, loss_after: after = 0, divergence = 0, tokens = 0, text } = made;
  const measured =
    text === "random"
      ? t("story.measured.random", { tokens: wholeNumber(tokens) })
      : t("story.measured.value", { tokens: wholeNumber(tokens), text: `${String(text).slice(0, 12)}…` });
  const difference = fromMicro(after - before, { signDisplay: "always" });
  return html`<section data-testid="story-quantization">
    <h3>${t("story.quantization")}</h3>
    <dl class="facts-list words">
      ${fact("scheme", group ? t("story.scheme.group", { scheme, group }) : scheme)} ${fact("method", t(`story.method.${method}`))}
      ${tokens === 0
        ? fact("measured", t("story.measured.none"))
        : html`${fact("loss", t("story.loss.value", { before: fromMicro(before), after: fromMicro(after), difference }))}
            ${fact("divergence", t("story.divergence.value", { value: fromMicro(divergence) }))} ${fact("measured", measured)}`}
    </dl>
  </section>`;
}

/** @param {{[name: string]: any}} manifest */
function bytesView(manifest) {
  const shares = sharesOf(manifest);
  const total = shares.reduce((sum, { bytes }) => sum + bytes, 0);
  let at = 0;
  const bars = shares.map(({ kind, bytes }) => {
    const x = at;
    at += (bytes / total) * BAR_WIDTH;
    return svg`<rect class=${`share-${kind}`} x=${x} width=${Math.max(1, at - x)} height="20"><title>${t(`story.bytes.${kind}`)}</title></rect>`;
  });
  return html`<section class="broad">
    <h3>${t("story.bytes")}</h3>
    <svg class="bytes-bar" viewBox=${`0 0 ${BAR_WIDTH} 20`} preserveAspectRatio="none" aria-hidden="true">${bars}</svg>
    <table class="bytes-table" data-testid="bytes-table">
      <thead>
        <tr>
          <th scope="col">${t("story.bytes.part")}</th>
          <th scope="col" class="number">${t("story.bytes.blocks")}</th>
          <th scope="col" class="number">${t("story.bytes.size")}</th>
          <th scope="col" class="number">${t("story.bytes.share")}</th>
        </tr>
      </thead>
      <tbody>
        ${shares.map(
          ({ kind, bytes, blocks }) => html`<tr>
            <th scope="row"><i class=${`swatch share-${kind}`}></i>${t(`story.bytes.${kind}`)}</th>
            <td class="number">${wholeNumber(blocks)}</td>
            <td class="number">${byteSize(bytes)}</td>
            <td class="number">${percent(bytes / total)}</td>
          </tr>`,
        )}
        <tr class="total">
          <th scope="row">${t("story.bytes.total")}</th>
          <td class="number">${wholeNumber(shares.reduce((sum, { blocks }) => sum + blocks, 0))}</td>
          <td class="number" data-testid="bytes-total">${byteSize(total)}</td>
          <td></td>
        </tr>
      </tbody>
    </table>
  </section>`;
}

/** @param {Story} story */
function versionsView({ releases }) {
  if (releases.length === 0) return nothing;
  return html`<section class="broad">
    <h3>${t("story.versions")}</h3>
    <ol class="releases" data-testid="releases">
      ${releases.map(
        ({ index, entry }, at) => html`<li>
          <p>
            <b>v${entry.body.version}</b> <time datetime=${new Date(entry.time * 1000).toISOString()}>${dateTime(entry.time)}</time>
            ${at === 0 ? html`<span class="badge">${t("story.version.current")}</span>` : nothing}
          </p>
          <p class="quiet-text">✓ ${t("story.version.entry", { index: wholeNumber(index) })} · <code>${entry.payload?.id}</code></p>
        </li>`,
      )}
    </ol>
  </section>`;
}

/**
 * @param {import("/proof.js").Proof} proof
 * @param {import("/blocks.js").Block[]} blocks
 */
function checkedView({ steps }, blocks) {
  const counts = countStates(blocks);
  return html`<section class="broad">
    <h3>${t("story.checked")}</h3>
    <h4>${t("story.checked.here")}</h4>
    <ol class="steps" data-testid="steps">
      ${steps.map((step) => {
        const [id, index] = step.id.split(":");
        const title = t(`step.${id}`, { version: `#${index}` });
        return stepView(step, title, id === "release" ? "" : t(`step.${id}.why`));
      })}
    </ol>
    ${blocks.length === 0
      ? nothing
      : html`<h4>${t("story.checked.node")}</h4>
          <p data-testid="story-blocks">
            ${t("story.checked.blocks", { verified: wholeNumber(counts.verified), total: wholeNumber(counts.total) })}.
            ${counts.corrupt > 0 ? html`<strong class="bad">${t("story.checked.damaged", { corrupt: counts.corrupt })}.</strong>` : nothing}
          </p>
          <p class="quiet-text">${t("story.checked.more")}</p>`}
  </section>`;
}
