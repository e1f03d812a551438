/*
 * The wallets of this browser: found as EIP-6963 says, asked as EIP-1193 says. What a wallet says of itself comes from outside: it is
 * checked, and shown as text and as an image that runs nothing.
 */

const NAME_CHARS_MAX = 64;
const ICON_CHARS_MAX = 256 * 1024;
const WALLETS_MAX = 32;

/**
 * @typedef {{request: (question: {method: string, params?: unknown[]}) => Promise<any>, on?: (event: string, listener: (value: any) => void) => void}} Provider
 * @typedef {{id: string, name: string, icon: string, rdns: string, provider: Provider}} Wallet
 */

/** Those that said that they are there, in that order. @type {Map<string, Wallet>} */
export const wallets = new Map();

/** A wallet did not do what it was asked; `code` is a word of ours. */
export class WalletFault extends Error {
  /** @param {"rejected" | "pending" | "unknown" | "unable" | "other"} code @param {string} said */
  constructor(code, said) {
    super(said);
    this.code = code;
  }
}

const CODES = /** @type {const} */ ({ 4001: "rejected", 4100: "rejected", [-32002]: "pending", 4902: "unknown", 4200: "unable", [-32601]: "unable" });

/** @param {unknown} value @param {number} most */
const textOf = (value, most) => (typeof value === "string" ? value.slice(0, most) : "");

/** @param {() => void} onChange */
export function findWallets(onChange) {
  addEventListener("eip6963:announceProvider", (event) => {
    const { info, provider } = /** @type {CustomEvent} */ (event).detail ?? {};
    const id = textOf(info?.uuid, NAME_CHARS_MAX);
    const name = textOf(info?.name, NAME_CHARS_MAX).trim();
    if (id === "" || name === "" || typeof provider?.request !== "function") return;
    if (!wallets.has(id) && wallets.size >= WALLETS_MAX) return;
    const icon = textOf(info.icon, ICON_CHARS_MAX + 1);
    const isImage = icon.length <= ICON_CHARS_MAX && /^data:image\/(?:png|jpeg|webp|gif|svg\+xml)[;,]/.test(icon);
    wallets.set(id, { id, name, icon: isImage ? icon : "", rdns: textOf(info.rdns, NAME_CHARS_MAX), provider });
    onChange();
  });
  askAgain();
}

/** Wallets that came since say so; one of before EIP-6963 counts where there is no other. */
export function askAgain() {
  dispatchEvent(new Event("eip6963:requestProvider"));
  const { ethereum } = /** @type {{ethereum?: Provider}} */ (/** @type {unknown} */ (globalThis));
  if (wallets.size === 0 && typeof ethereum?.request === "function") {
    wallets.set("window", { id: "window", name: "window.ethereum", icon: "", rdns: "window", provider: ethereum });
  }
}

/**
 * What a wallet answers; `WalletFault` where it does not.
 * @param {Wallet} wallet
 * @param {string} method
 * @param {unknown[]} [params]
 */
export async function askWallet({ provider }, method, params = []) {
  try {
    return await provider.request({ method, params });
  } catch (failure) {
    const { code, message, data } = /** @type {any} */ (failure ?? {});
    // some wallets wrap the code of EIP-3326 once more
    const number = /** @type {keyof typeof CODES} */ (data?.originalError?.code ?? code);
    throw new WalletFault(CODES[number] ?? "other", String(message ?? failure).slice(0, 300));
  }
}

/** The number of the chain that a wallet is on. @param {Wallet} wallet */
export async function chainOf(wallet) {
  return Number(await askWallet(wallet, "eth_chainId"));
}

/** A text as `personal_sign` takes it. @param {string} text */
export function hexOf(text) {
  return `0x${Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
