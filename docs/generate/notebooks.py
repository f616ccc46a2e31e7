"""Pages of the notebooks: their texts, programs and stored outputs. Nothing is run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def notebook_pages() -> dict[str, str]:
    """Path -> page."""
    return {f"notebooks/{path.stem}.md": page_of(path) for path in sorted(FOLDER.glob("*.ipynb"))}


def page_of(path: Path) -> str:
    """One notebook as Markdown, with a link to its file below the title."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, *parts = [part for cell in cells for part in _cell(cell)]
    heading, _, rest = title.partition("\n")
    link = f"This page is a notebook: [{path.name}]({path.name}). Its outputs are those of its last run."
    return "\n\n".join([heading, link, rest.strip(), *parts]) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [_fenced(source, "python"), *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<p><img alt="The figure that this cell draws" src="data:image/png;base64,{picture}"></p>'
    if "text/html" in data:
        # pandas brings a style sheet along, and the site has one; a blank line would end the block for Markdown
        shown = re.sub(r"<style.*?</style>|(?<=\n)\s*\n", "", "".join(data["text/html"]), flags=re.S)
        shown = re.sub(r"<table[^>]*>", "<table>", shown)
        return f'<div class="output">\n{shown.strip()}\n</div>'
    return _fenced("".join(output.get("text") or data["text/plain"]).rstrip("\n"), "text")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
