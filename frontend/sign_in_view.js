/* The dialog in which somebody signs in. */

import { html, nothing } from "/vendor/lit-html/lit-html.js";
import { account } from "/account_state.js";
import { dialogView } from "/dialog.js";
import { t } from "/i18n.js";
import { door, listedWallets, openSignIn, signIn, switchChain } from "/sign_in.js";

/** Names of chains by their numbers; those of other chains are their numbers. @type {Record<number, string>} */
const CHAINS = {
  1: "Ethereum",
  10: "OP Mainnet",
  56: "BNB Smart Chain",
  100: "Gnosis",
  137: "Polygon",
  8453: "Base",
  42161: "Arbitrum One",
  11155111: "Sepolia",
  84532: "Base Sepolia",
};

/** @param {number} chain */
const chainName = (chain) => (chain in CHAINS ? `${CHAINS[chain]} (${chain})` : t("chain.number", { chain }));

function chooseView() {
  const found = listedWallets();
  if (found.length === 0) {
    return html`<div class="no-wallet" data-testid="no-wallet">
      <h3>${t("wallet.none")}</h3>
      <p>${t("wallet.none.next")}</p>
      <p><button type="button" class="button" @click=${openSignIn}>${t("wallet.look")}</button></p>
    </div>`;
  }
  return html`<ul class="wallets" aria-label=${t("wallet.list")}>
    ${found.map(
      (wallet) => html`<li><button type="button" class="button wallet" data-testid="wallet" @click=${() => signIn(wallet)}>
        ${wallet.icon === "" ? html`<span class="wallet-sign" aria-hidden="true">${wallet.name.slice(0, 1)}</span>` : html`<img class="wallet-sign" src=${wallet.icon} alt="" />`}
        <bdi>${wallet.name}</bdi>
      </button></li>`,
    )}
  </ul>`;
}

function chainView() {
  return html`<p data-testid="wrong-chain">${t("wallet.chain", { chain: chainName(door.chain) })}</p>
    <p class="wallet-actions">
      ${account.chains.map(
        (chain) => html`<button type="button" class="button send" data-testid="switch-chain" @click=${() => switchChain(chain)}>
          ${t("wallet.switch", { chain: chainName(chain) })}
        </button>`,
      )}
      <button type="button" class="button" @click=${openSignIn}>${t("wallet.another")}</button>
    </p>`;
}

function waitView() {
  const words = t(`wallet.wait.${door.step}`, { wallet: door.wallet?.name ?? "" });
  return html`<div class="wallet-wait">
    <p class="waiting" aria-hidden="true"><i></i><i></i><i></i></p>
    <p data-testid="wallet-wait">${words}</p>
    <p><button type="button" class="button" data-testid="wallet-back" @click=${openSignIn}>${t("wallet.another")}</button></p>
  </div>`;
}

function faultView() {
  if (door.fault === "") return nothing;
  return html`<div class="wallet-fault" data-testid="wallet-fault">
    <p>${t(/** @type {import("/i18n.js").WordKey} */ (door.fault))}</p>
    ${door.said === "" || door.fault === "wallet.rejected" ? nothing : html`<p class="alert-said"><q lang="en" dir="auto">${door.said}</q></p>`}
  </div>`;
}

/** The cookie counts at the configured address alone. */
function elsewhereView() {
  return html`<p>${t("signin.elsewhere")}</p>
    <p><a class="button send" data-testid="signin-elsewhere" href=${account.origin}>${account.origin}</a></p>`;
}

export function signInView() {
  const isHere = location.origin === account.origin;
  const step = door.step === "choose" ? chooseView : door.step === "chain" ? chainView : waitView;
  const body = html`<div class="signin">
    <p class="quiet-text">${t("signin.about")}</p>
    <div role="status">${faultView()}</div>
    ${isHere ? step() : elsewhereView()}
  </div>`;
  return dialogView(t("signin.title"), body, "signin");
}
