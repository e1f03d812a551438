"""The model card of a checkpoint, `README.md`: what its front matter says of the licence, read and written.

A licence that is on no list is `other` there, with a name and a link of its own; SPDX's form of its name is
`LicenseRef-…`. Only a few lines of YAML are understood: what is written otherwise is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blyan.model.manifest import license_link_pattern
from blyan.primitives import limits

# YAML: plain or quoted, alone or as the first of a list in brackets or of one with dashes
_license_said = re.compile(
    r"""^license:[ \t]*(?:(?P<bracket>\[\s*)|\n[ \t]*-[ \t]+)?(?P<quote>["']?)"""
    r"""(?P<id>[A-Za-z0-9][A-Za-z0-9.+-]{0,63})(?P=quote)(?(bracket)\s*[,\]]|(?:[ \t]+\#.*)?$)""",
    re.MULTILINE,
)
_named: Final = "LicenseRef-"
_name_said, _link_said = (
    re.compile(rf"""^{name}:[ \t]*(?P<quote>["']?)(?P<text>{text})(?P=quote)(?:[ \t]+\#.*)?$""", re.MULTILINE)
    for name, text in (("license_name", r"""[^"'\n]{1,100}?"""), ("license_link", r"""[^"'\s]{1,256}"""))
)


@dataclass(frozen=True, slots=True)
class License:
    """What a model may be used under."""

    identifier: str = ""  # SPDX, or empty
    link: str = ""  # of the text, where the card gives one


def read_license(folder: Path) -> License:
    """The licence of the card, if there is one; the first where it lists several."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > limits.config_json_bytes_max:
        return License()
    lines = [line.rstrip() for line in card.read_text("utf-8-sig", "replace").split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return License()
    front = "\n".join(lines[1 : lines.index("---", 1)])
    said, name, link = (pattern.search(front) for pattern in (_license_said, _name_said, _link_said))
    if said is None:
        return License()
    there = link["text"] if link is not None and license_link_pattern.fullmatch(link["text"]) else ""
    if said["id"] != "other" or name is None:
        return License(said["id"], there)
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name["text"].strip()).strip("-")
    return License(_named + plain if plain else said["id"], there)


def front_matter(identifier: str, link: str) -> str:
    """A card that `read_license` reads as this licence."""
    lines = [f"license: {identifier}"]
    if identifier.startswith(_named):
        lines = ["license: other", f"license_name: {identifier.removeprefix(_named)}"]
    lines += [f"license_link: {link}"] if link else []
    return "\n".join(["---", *lines, "---", ""])
