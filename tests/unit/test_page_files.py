"""The page's files: small, complete in both languages, from nowhere else."""

import gzip
import hashlib
import math
import re
from pathlib import Path

from blyan.api.page import asset
from blyan.primitives import limits

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = ROOT / "frontend"
OPENED_BYTES_MAX = 53_500
OWN_BYTES_MAX = 88_000
LINES_MAX = 400
OWN = sorted(path for path in FRONTEND.iterdir() if path.suffix in {".js", ".css", ".html"})
MODULES = [path for path in OWN if path.suffix == ".js"]
WORDS = {"words_en.js", "words_ko.js"}
# Names and signs that are the same in every language.
UNTRANSLATED = {"Blyan", "?", "v"}


def words_of(name: str) -> dict[str, str]:
    text = (FRONTEND / name).read_text(encoding="utf-8")
    return dict(re.findall(r'^  "([\w.]+)": "(.*)",$', text, re.MULTILINE))


def opened() -> set[str]:
    """What a browser fetches to open the page: what index.html names, what that imports, but not on demand, and the
    words of one language: Korean, which are longer."""
    wanted = ["words_ko.js"]
    wanted += re.findall(r'(?:src|href)="/([\w.]+\.(?:js|css))"', (FRONTEND / "index.html").read_text(encoding="utf-8"))
    found = {"index.html"}
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            text = (FRONTEND / name).read_text(encoding="utf-8")
            wanted += re.findall(r'^(?:import|\}) .*"/([\w.]+\.js)";$', text, re.MULTILINE)
    return found


def served_bytes(names: set[str]) -> int:
    return sum(len(gzip.compress(asset(FRONTEND / name), 9)) for name in names)


def test_the_pages_own_code_is_small() -> None:
    """As it is served and compressed, each file by itself: what opens the page in one language, and every file there is
    (both languages, the proofs' views, the splash); libraries under vendor/ are not counted."""
    names = opened()
    assert {"app.js", "sse.js", "markdown.js", "words_ko.js"} < names
    assert not names & {"sheet.js", "proof.css", "words_en.js"}
    assert served_bytes(names) < OPENED_BYTES_MAX
    assert served_bytes({path.name for path in OWN}) < OWN_BYTES_MAX


def test_only_types_and_comments_with_lines_of_their_own_are_left_behind(tmp_path: Path) -> None:
    """The rest of a script stays as it is, texts that look like comments too."""
    path = tmp_path / "a.js"
    kept = 'const a = "// no"; // stays\nconst c = `/* ${a}`; /* stays */\nreturn (a);\n'
    written = kept.replace("(a)", "/** @type {{x: y}} */ (a)")
    path.write_text(f"/* one\n * two */\n{written}  // goes\n  /** @type {{x}} */\n")
    assert asset(path).decode() == kept
    assert not [name for name in opened() if "/*" in asset(FRONTEND / name).decode() and name.endswith(".css")]


def test_no_module_of_the_page_is_long() -> None:
    assert [path.name for path in OWN if path.suffix == ".js" and path.read_text().count("\n") > LINES_MAX] == []


def test_both_languages_have_the_same_words_with_the_same_blanks() -> None:
    english, korean = words_of("words_en.js"), words_of("words_ko.js")
    assert english.keys() == korean.keys()
    assert len(english) > 100
    blanks = {key: sorted(re.findall(r"\{\w+\}", words)) for key, words in english.items()}
    assert blanks == {key: sorted(re.findall(r"\{\w+\}", words)) for key, words in korean.items()}
    assert [key for key, words in korean.items() if not words.strip() or not english[key].strip()] == []


def test_every_word_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in OWN if path.name not in WORDS)
    prefixes = set(re.findall(r"`([\w.]+\.)\$\{", text))

    def is_used(key: str) -> bool:
        return f'"{key}"' in text or any(key.startswith(prefix) for prefix in prefixes)

    assert [key for key in words_of("words_en.js") if not is_used(key)] == []


def test_each_documented_code_has_its_own_words_and_next_step() -> None:
    """What goes wrong is said in the reader's language: a title, and what to do, for every code of docs/errors.md."""
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    faults = dict(re.findall(r'^  (\w+): \["(\w+)"', (FRONTEND / "alert.js").read_text(), re.MULTILINE))
    assert documented <= faults.keys()
    assert faults.keys() - documented == {"unreachable", "stream_broken", "no_model"}
    named = {f"error.{name}{part}" for name in [*faults.values(), "other"] for part in ("", ".next")}
    assert named <= words_of("words_en.js").keys()


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
