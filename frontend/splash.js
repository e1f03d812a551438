/* Registers the worker that shows what to do when the page is opened and no node answers; see worker.js. */

const WORKER = "/worker.js";

/** @typedef {{createPolicy: (name: string, rules: {createScriptURL: (url: string) => string}) => {createScriptURL: (url: string) => string}}} TrustedTypes */

/** Does nothing where the page is not in a secure context: there the browser says by itself that no node answers. */
export function keepSplash() {
  if (!("serviceWorker" in navigator)) return;
  const { trustedTypes } = /** @type {{trustedTypes?: TrustedTypes}} */ (globalThis);
  // The one address that this policy lets through is our own.
  const policy = trustedTypes?.createPolicy("blyan", { createScriptURL: () => WORKER });
  // A browser that refuses keeps its own error page, which is no loss to this one.
  navigator.serviceWorker.register(policy ? policy.createScriptURL(WORKER) : WORKER).catch(() => {});
}
