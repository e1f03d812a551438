/*
 * The history, in this browser's IndexedDB and nowhere else.
 *
 * Each message is a row of its own and a conversation's row is changed field by field inside one transaction, so that two tabs
 * which write to one conversation lose nothing of each other. Other tabs are told of every change. A browser that forbids the
 * database gets a history that lasts as long as its tab.
 */

/** @typedef {{record: ConversationRecord, messages: MessageRecord[]}} Kept */

const NAME = "blyan";
const STORE_VERSION = 1;
const OPEN_LIMIT_MS = 5000;

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

/** @returns {Promise<IDBDatabase>} */
async function openDatabase() {
  const request = indexedDB.open(NAME, STORE_VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("conversations", { keyPath: "id" });
    request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
  };
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the database does not open")), OPEN_LIMIT_MS));
  const database = await Promise.race([result(request), late]);
  // A page of a newer version wants to change the tables: let it, and write no more.
  database.onversionchange = () => database.close();
  return database;
}

/** @type {Promise<IDBDatabase | null> | null} */
let opening = null;
/** @type {Map<string, Kept>} */
const unkept = new Map(); // in place of a database that is forbidden
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("blyan.history") : null;

/** @returns {Promise<IDBDatabase | null>} */
function database() {
  opening ??= openDatabase().catch(() => null);
  return opening;
}

/** Whether what is kept outlives this tab. */
export async function isLasting() {
  return (await database()) !== null;
}

/** Calls back with the conversation that another tab changed. @param {(id: string) => void} callback */
export function onOtherTab(callback) {
  channel?.addEventListener("message", ({ data }) => callback(String(data)));
}

/** @param {string} id */
function tell(id) {
  channel?.postMessage(id);
}

/** Every conversation that is not deleted, the newest first. @returns {Promise<ConversationRecord[]>} */
export async function listConversations() {
  const db = await database();
  const all = db
    ? await result(db.transaction("conversations").objectStore("conversations").getAll())
    : [...unkept.values()].map(({ record }) => record);
  return all.filter(({ deleted }) => deleted === null).sort((a, b) => b.updated - a.updated);
}

/** @param {string} id @returns {Promise<Kept | null>} null if there is none, or it was deleted */
export async function loadConversation(id) {
  const db = await database();
  if (db === null) return unkept.get(id) ?? null;
  const transaction = db.transaction(["conversations", "messages"]);
  const [record, messages] = await Promise.all([
    result(transaction.objectStore("conversations").get(id)),
    result(transaction.objectStore("messages").index("conversation").getAll(id)),
  ]);
  return record && record.deleted === null ? { record, messages } : null;
}

/**
 * Writes messages and, field by field, the conversation. A conversation that another tab deleted stays deleted.
 * @param {ConversationRecord} record as a whole, for a conversation that is not there yet
 * @param {Partial<ConversationRecord>} changes
 * @param {MessageRecord[]} messages
 * @param {boolean} [isNew]
 * @returns {Promise<boolean>} false if the conversation is gone
 */
export async function save(record, changes, messages, isNew = false) {
  const db = await database();
  if (db === null) return saveUnkept(record, changes, messages, isNew);
  const transaction = db.transaction(["conversations", "messages"], "readwrite", { durability: "relaxed" });
  const done = committed(transaction);
  const conversations = transaction.objectStore("conversations");
  const there = /** @type {ConversationRecord | undefined} */ (await result(conversations.get(record.id)));
  if (there === undefined && !isNew) return false;
  const chosen = { ...there?.chosen, ...changes.chosen };
  conversations.put({ ...record, ...there, ...changes, chosen });
  for (const message of messages) transaction.objectStore("messages").put(message);
  await done;
  tell(record.id);
  return true;
}

/** @param {ConversationRecord} record @param {Partial<ConversationRecord>} changes @param {MessageRecord[]} messages @param {boolean} isNew */
function saveUnkept(record, changes, messages, isNew) {
  const there = unkept.get(record.id);
  if (there === undefined && !isNew) return false;
  const rows = new Map((there?.messages ?? []).map((message) => [message.id, message]));
  for (const message of messages) rows.set(message.id, message);
  unkept.set(record.id, { record: { ...record, ...there?.record, ...changes }, messages: [...rows.values()] });
  return true;
}

/** Changes some fields of a conversation. @param {ConversationRecord} record @param {Partial<ConversationRecord>} changes */
export function change(record, changes) {
  return save(record, changes, []);
}

/** Takes a message away: an answer that never got a word. @param {string} id @param {string} conversation */
export async function removeMessage(id, conversation) {
  const db = await database();
  const there = unkept.get(conversation);
  if (there) there.messages = there.messages.filter((message) => message.id !== id);
  if (db === null) return;
  const transaction = db.transaction("messages", "readwrite");
  transaction.objectStore("messages").delete(id);
  await committed(transaction);
  tell(conversation);
}

/** Removes for good what was deleted before `time`. @param {number} time */
export async function purge(time) {
  const db = await database();
  if (db === null) return;
  const transaction = db.transaction(["conversations", "messages"], "readwrite");
  const done = committed(transaction);
  const all = /** @type {ConversationRecord[]} */ (await result(transaction.objectStore("conversations").getAll()));
  for (const { id, deleted } of all) {
    if (deleted === null || deleted > time) continue;
    transaction.objectStore("conversations").delete(id);
    const messages = transaction.objectStore("messages");
    for (const key of await result(messages.index("conversation").getAllKeys(id))) messages.delete(key);
  }
  await done;
}

/** Ids of conversations of which a message contains `words`, in any case of letters. @param {string} words @returns {Promise<Set<string>>} */
export async function search(words) {
  const wanted = words.toLowerCase();
  const found = /** @type {Set<string>} */ (new Set());
  /** @param {MessageRecord} message */
  const look = ({ conversation, text }) => {
    if (!found.has(conversation) && text.toLowerCase().includes(wanted)) found.add(conversation);
  };
  const db = await database();
  if (db === null) {
    for (const { messages } of unkept.values()) messages.forEach(look);
    return found;
  }
  // Row by row: a long history does not stand in memory at once.
  const request = db.transaction("messages").objectStore("messages").openCursor();
  await new Promise((resolve, reject) => {
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      if (request.result === null) return resolve(null);
      look(request.result.value);
      request.result.continue();
    };
  });
  return found;
}

/** Adds a whole conversation, of an import. @param {Kept} kept @returns {Promise<boolean>} false if one with this id is here */
export async function add({ record, messages }) {
  const db = await database();
  if (db === null) {
    if (unkept.has(record.id)) return false;
    return saveUnkept(record, {}, messages, true);
  }
  const transaction = db.transaction(["conversations", "messages"], "readwrite");
  const done = committed(transaction);
  const there = await result(transaction.objectStore("conversations").get(record.id));
  if (there !== undefined && there.deleted === null) return false;
  const before = transaction.objectStore("messages").index("conversation");
  for (const key of await result(before.getAllKeys(record.id))) transaction.objectStore("messages").delete(key);
  transaction.objectStore("conversations").put(record);
  for (const message of messages) transaction.objectStore("messages").put(message);
  await done;
  tell(record.id);
  return true;
}
