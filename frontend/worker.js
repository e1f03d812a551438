/*
 * The page's service worker: if the page is opened and no node answers, it shows a splash that says how to start one.
 *
 * It answers nothing else: the page itself always comes from the node, because a page of an older version must never talk to a
 * newer node. What it keeps is the splash alone.
 */

const CACHE = "blyan-splash-2";
const SPLASH = "/offline.html";
const FILES = [
  SPLASH,
  "/offline.js",
  "/i18n.js",
  "/page.css",
  "/favicon.svg",
];

const worker = /** @type {any} */ (globalThis);

worker.addEventListener("install", (/** @type {any} */ event) => {
  worker.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  const old = caches.keys().then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name))));
  event.waitUntil(Promise.all([old, worker.clients.claim()]));
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  if (request.mode === "navigate") {
    event.respondWith(fetch(request).catch(() => caches.match(SPLASH)));
    return;
  }
  const { origin, pathname } = new URL(request.url);
  if (origin !== location.origin || !FILES.includes(pathname)) return;
  event.respondWith(fetch(request).catch(async () => (await caches.match(pathname)) ?? Response.error()));
});
