"""The fenced blocks of the pages, as they stand in the Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .pages import ROOT

SHELL = ("", "bash", "sh")
#: languages of what is shown, not typed
SHOWN = ("text", "csv")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    language: str
    text: str
    #: name of the file that it is, from a line such as "`recipe.yaml`:" above it
    file: str

    def commands(self) -> list[str]:
        """Lines of a shell without comments; what `&&` joins are several."""
        lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in self.text.splitlines()]
        return [one for line in lines for one in line.split(" && ") if one]


def blocks(page: str) -> list[Block]:
    """In the order of the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = r"(?:^`([\w.-]+)`:\n\n)?^```(\w*)\n(.*?)^```$"
    return [Block(page, *parts) for file, *rest in re.findall(pattern, text, re.M | re.S) for parts in [(*rest, file)]]


def inline(page: str) -> list[str]:
    """Commands of pefttools in running text and tables."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [re.sub(r"\s+", " ", one) for one in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return [one for part in found for one in part.split(" && ") if one.startswith("pefttools ")]
