"""Wallets in a page (EIP-6963, EIP-1193) that sign with real keys, outside of the browser."""

from __future__ import annotations

from typing import Final

from eth_account.signers.local import LocalAccount
from playwright.sync_api import BrowserContext, Page

from wallets import new_key, sign

ICON: Final = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='-9 -9 18 18'><circle r='8'/></svg>"
_INJECTED: Final = """(([name, rdns, icon, keys]) => {
  const listeners = {};
  const wallet = {
    keys, chain: "0x1", known: ["0x1"], refused: {}, asked: [], hangs: null,
    switchTo(...others) {
      wallet.keys = others;
      for (const listener of listeners.accountsChanged ?? []) listener([...others]);
    },
  };
  const fault = (code, message) => Object.assign(new Error(message), { code });
  const provider = {
    async request({ method, params }) {
      wallet.asked.push(method);
      if (wallet.hangs === method) await new Promise(() => {});
      if (method in wallet.refused) throw fault(wallet.refused[method], `refused ${method}`);
      if (method === "eth_requestAccounts" || method === "eth_accounts") return [...wallet.keys];
      if (method === "eth_chainId") return wallet.chain;
      if (method === "personal_sign") return window.signAsWallet(params[0], params[1]);
      if (method === "wallet_switchEthereumChain") {
        const [{ chainId }] = params;
        if (!wallet.known.includes(chainId)) throw fault(4902, "Unrecognized chain ID");
        wallet.chain = chainId;
        return null;
      }
      throw fault(4200, `no ${method}`);
    },
    on(event, listener) {
      (listeners[event] ??= []).push(listener);
    },
  };
  (window.wallets ??= {})[name] = wallet;
  const info = Object.freeze({ uuid: `350670db-19fa-4704-a166-${rdns}`, name, icon, rdns });
  const detail = Object.freeze({ info, provider });
  const announce = () => dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  addEventListener("eip6963:requestProvider", announce);
  announce();
})"""


def give_wallets(context: BrowserContext, *names: str, keys: tuple[LocalAccount, ...] = (new_key(),)) -> None:
    """Wallets of these names in every page of a context; all have the same keys, the first one chosen.

    In the page `window.wallets[NAME]` says what was `asked` and changes what it does: `chain`, `known`, `refused`
    (method → code), `hangs`, `switchTo(…addresses)`.
    """
    by_address = {key.address.lower(): key for key in keys}

    def sign_message(message: str, address: str) -> str:
        return sign(by_address[address.lower()], bytes.fromhex(message[2:]).decode())

    context.expose_function("signAsWallet", sign_message)
    for name in names:
        given = [name, f"org.example.{name.lower()}", ICON, [key.address for key in keys]]
        context.add_init_script(f"{_INJECTED}({given!r});")


def sign_in(page: Page, wallet: str = "Alpha") -> None:
    """Signs in by the wallet of that name and waits until the page says so."""
    page.get_by_test_id("sign-in").click()
    page.get_by_test_id("wallet").filter(has_text=wallet).click()
    page.get_by_test_id("account").wait_for()
