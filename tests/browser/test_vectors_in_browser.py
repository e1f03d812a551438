"""The frozen vectors, read by the page's own code in the browser; the vendored files are what they claim to be."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = ROOT / "frontend"
VENDORED = FRONTEND / "vendor/noble-hashes"
# A name under .localhost is a secure context, as the node's own address is: WebCrypto is there.
ORIGIN = "http://modules.localhost/"
HEX = """const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const raw = (text) => Uint8Array.from(text.match(/../g) ?? [], (two) => Number.parseInt(two, 16));
"""


def vector(name: str) -> Any:
    return json.loads((ROOT / f"tests/vectors/{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def modules(browser: Browser) -> Page:
    """A page that can import the modules of the frontend; no node is needed for that."""

    def serve(route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path:
            route.fulfill(path=FRONTEND / path, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")

    page = browser.new_page()
    page.route(f"{ORIGIN}**", serve)
    page.goto(ORIGIN)
    return page


def run(page: Page, body: str, argument: object) -> Any:
    """What the body of an async function of `given` returns."""
    return page.evaluate(f"async (given) => {{ {HEX} {body} }}", argument)


def test_canonical_values_are_read_and_every_other_spelling_is_refused(modules: Page) -> None:
    held = vector("canonical")
    read = """const { decode } = await import("/canonical.js");
      return given.map((each) => { try { return { value: decode(raw(each)) }; } catch { return null; } });"""
    assert [{"value": each["value"]} for each in held["valid"]] == run(
        modules, read, [each["bytes"] for each in held["valid"]]
    )
    assert [None] * len(held["refused"]) == run(modules, read, held["refused"])


def test_digests_are_those_of_the_vectors(modules: Page) -> None:
    held = vector("digests")
    found = run(
        modules,
        """const { hashSubtile, hashNode, hashPayload } = await import("/tile_root.js");
        return {
          subtile: given.subtile.map(({ input }) => hex(hashSubtile(raw(input)))),
          node: given.node.map(({ level, children }) => hex(hashNode(level, children.map(raw)))),
          payload: given.payload.map(({ length, root }) => hashPayload(length, raw(root))),
        };""",
        held,
    )
    assert [each["digest"] for each in held["subtile"]] == found["subtile"]
    assert [each["digest"] for each in held["node"]] == found["node"]
    assert [each["id"] for each in held["payload"]] == found["payload"]


def test_payload_ids_are_those_of_the_vectors_however_the_bytes_arrive(modules: Page) -> None:
    for each in vector("tile"):
        if each["length"] > 3 << 20:
            continue  # one of many subtiles stays, and its bytes need not cross into the browser
        data = hashlib.shake_256(each["fill"].encode()).digest(each["length"])
        found = run(
            modules,
            """const { TileHasher } = await import("/tile_root.js");
            const data = Uint8Array.from(atob(given), (letter) => letter.charCodeAt(0));
            const answers = [];
            for (const step of [data.length, 100_003]) {
              const hasher = new TileHasher();
              for (let at = 0; at < data.length; at += step) hasher.update(data.subarray(at, at + step));
              answers.push([hasher.finish(), hex(new Uint8Array(await crypto.subtle.digest("SHA-256",
                await new Blob(hasher.leaves).arrayBuffer())))]);
            }
            return answers;""",
            base64.b64encode(data).decode(),
        )
        assert found == [[each["payload"], each["index_sha256"]]] * 2


def test_roots_and_paths_are_those_of_the_vectors_and_no_other_place_fits(modules: Page) -> None:
    held = vector("proofs")
    found = run(
        modules,
        """const { leafHash, rootOfLeaves, rootOfPath } = await import("/merkle.js");
        const leaves = await Promise.all(given.leaves.map((each) => leafHash(raw(each))));
        const roots = [];
        for (let size = 0; size <= leaves.length; size += 1) roots.push(hex(await rootOfLeaves(leaves.slice(0, size))));
        const shown = (root) => root && hex(root);
        const right = [], wrong = [];
        for (const { index, size, path } of given.inclusion) {
          const hashes = path.map(raw);
          right.push(shown(await rootOfPath(index, size, leaves[index], hashes)) === roots[size]);
          const others = [
            await rootOfPath(index, size, leaves[index], [...hashes, leaves[0]]),
            await rootOfPath(size, size, leaves[index], hashes),
            await rootOfPath(index, 2 * size + 8, leaves[index], hashes),
            await rootOfPath(-1, size, leaves[index], hashes),
            await rootOfPath(index, size, leaves[(index + 1) % 8], hashes),
            ...(hashes.length ? [await rootOfPath(index, size, leaves[index], hashes.slice(1))] : []),
          ];
          wrong.push(others.some((root) => shown(root) === roots[size]));
        }
        return { roots, right, wrong };""",
        held,
    )
    assert held["roots"] == found["roots"]
    assert set(found["right"]) == {True}
    assert set(found["wrong"]) == {False}


def test_signatures_hold_and_those_of_the_refused_list_do_not(modules: Page) -> None:
    held = vector("signatures")
    found = run(
        modules,
        """const { verify, verifyRaw } = await import("/ed25519.js");
        const message = raw(given.message);
        const each = (found) => Promise.all(found);
        return {
          kinds: await each(Object.entries(given.signatures).map(([kind, signature]) =>
            verify(given.public, kind, message, signature))),
          note: await verifyRaw(given.public, message, raw(given.note)),
          refused: await each(Object.values(given.refused).map(([key, sig]) => verify(key, "entry", message, sig))),
        };""",
        held,
    )
    assert found == {"kinds": [True] * 3, "note": True, "refused": [False] * len(held["refused"])}


def test_entries_have_their_ids_and_signatures(modules: Page) -> None:
    held = vector("entries")
    found = run(
        modules,
        """const { parseEntry, entrySignatureHolds } = await import("/promises.js");
        return Promise.all(given.map(async (bytes) => {
          const entry = await parseEntry(new TextEncoder().encode(bytes));
          const other = { ...entry, signed: entry.signed.with(9, entry.signed[9] ^ 1) };
          const holds = [await entrySignatureHolds(entry), await entrySignatureHolds(other)];
          return [entry.id, entry.type, entry.author, ...holds];
        }));""",
        [each["bytes"] for each in held["valid"]],
    )
    assert [[each["id"], each["type"], each["author"], True, False] for each in held["valid"]] == found


def test_checkpoints_are_read_and_those_of_the_refused_list_are_not(modules: Page) -> None:
    held = vector("checkpoint")
    read = """const { parseNote, noteSignatureHolds } = await import("/promises.js");
      return Promise.all(given.notes.map(async (text) => {
        try {
          const note = parseNote(text);
          return [note.origin, note.size, note.root, await noteSignatureHolds(note, given.author)];
        } catch { return null; }
      }));"""
    right = [held["origin"], held["size"], held["root"], True]
    valid = run(modules, read, {"notes": list(held["valid"].values()), "author": held["public"]})
    assert [right] * len(held["valid"]) == valid
    refused = run(modules, read, {"notes": list(held["refused"].values()), "author": held["public"]})
    assert len(refused) == len(held["refused"])
    assert right not in refused


def test_the_joint_checkpoint_is_read_and_one_changed_byte_breaks_its_signature(modules: Page) -> None:
    held = vector("chain")
    joint = held["joint"]
    read = """const { parseJoint, jointSignatureHolds } = await import("/promises.js");
      return Promise.all(given.map(async (text) => {
        const joint = parseJoint(new TextEncoder().encode(text));
        return [joint.network, joint.author, joint.heads.parameter.root, await jointSignatureHolds(joint)];
      }));"""
    text = bytes.fromhex(joint).decode() if re.fullmatch(r"[0-9a-f]+", joint) else joint
    root = json.loads(text)["heads"]["parameter"]["root"]
    other = ("0" if root[0] != "0" else "1") + root[1:]
    found = run(modules, read, [text, text.replace(root, other)])
    assert found == [[held["network"], held["public"], root, True], [held["network"], held["public"], other, False]]


def test_a_member_is_cut_out_of_an_answer_byte_for_byte(modules: Page) -> None:
    inner = '{"a":"}\\",{\\"entry\\":1","b":[1,{"c":"]"}]}'
    answer = f'{{"leaf":{{"entry":5}},"s":"\\"entry\\":7,","entry":{inner},"path":[]}}'
    found = run(modules, 'return (await import("/canonical.js")).memberText(given, "entry");', answer)
    assert found == inner
    assert json.loads(answer)["entry"] == json.loads(found)


@pytest.mark.parametrize("folder", ["noble-hashes", "lit-html"])
def test_vendored_files_are_those_that_their_table_names(folder: str) -> None:
    readme = (FRONTEND / "vendor" / folder / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"\| `([^`]+)` sha256 \| `([0-9a-f]{64})` \|", readme))
    root = FRONTEND / "vendor" / folder
    files = {
        str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file() and path.name != "README.md"
    }
    assert set(files) == set(named)
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == named


def receipt_checks(page: Page, file: str, amount: str) -> dict[str, str]:
    """How each check of a receipt ends on a page that reaches no node."""
    held = vector("receipt")
    own = {name: held[name] for name in ("request", "output", "salt")} | {"amount": amount}
    made = run(
        page,
        """const { ReceiptProof } = await import("/receipt.js");
        const [file, own] = given, { fetch } = window;
        window.fetch = async () => { throw new TypeError("no node"); };
        const proof = new ReceiptProof(() => {});
        await proof.run(file, own);
        window.fetch = fetch;
        return proof.steps.map(({ id, state }) => [id, state]);""",
        [file, own],
    )
    return dict(made)


def test_receipts_are_checked_as_the_vectors_say(modules: Page) -> None:
    """The file holds but for the network, which no node is there to name; a free one has no record of the books; of
    each that is refused the check it is named after is the first to fail."""
    held = vector("receipt")
    whole = receipt_checks(modules, held["file"], "0.0000198")
    assert {name: state for name, state in whole.items() if state != "ok"} == {"origin": "open"}
    free = receipt_checks(modules, held["free"], "0")
    assert "bad" not in {free[name] for name in free.keys() - {"request", "output"}}
    assert [free[name] for name in ("record", "amount", "inclusion", "promise")] == ["open"] * 4
    for check, file in held["refused"].items():
        states = receipt_checks(modules, file, "0.0000198")
        assert next(name for name, state in states.items() if state == "bad") == check


def test_an_amount_other_than_the_charge_is_named(modules: Page) -> None:
    states = receipt_checks(modules, vector("receipt")["file"], "0.0000199")
    assert [name for name, state in states.items() if state == "bad"] == ["shown"]


def test_amounts_are_exact_and_rounded_once(modules: Page) -> None:
    """Also where a number of the browser's would lose digits; signs, zeros and shorter texts read alike."""
    found = run(
        modules,
        """const { costOf, plus, unitsOf, amountOf, money } = await import("/money.js");
        const price = { prompt_per_million: "0.15", completion_per_million: "0.6" };
        return [
          costOf(price, 12, 30, 8), costOf(price, 1, 0, 8), costOf(price, 0, 0, 8),
          plus("46116860184.27387903", "0.00000001", 8), plus("-1", "0.5", 8), amountOf(unitsOf("-0.00000001", 8), 8),
          money("46116860184.27387904", "USD"), money("0.0000198", "USD"), money("1", "BLY"),
          (() => { try { return unitsOf("1e3", 8); } catch (failure) { return failure.name; } })(),
        ];""",
        None,
    )
    assert found[:6] == ["0.00001980", "0.00000015", "0.00000000", "46116860184.27387904", "-0.50000000", "-0.00000001"]
    assert found[6:8] == ["$46,116,860,184.27387904", "$0.0000198"]
    assert (found[8].replace("\N{NO-BREAK SPACE}", " "), found[9]) == ("BLY 1.00", "RangeError")
