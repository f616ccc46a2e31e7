"""All generated pages."""

from __future__ import annotations

import re

from .api import api_pages
from .commands import command_page
from .files import file_pages
from .notebooks import notebook_pages
from .plugins import method_pages, objective_pages, task_pages


def generated_pages() -> dict[str, str]:
    """Path below docs/ -> Markdown."""
    return {
        **method_pages(),
        **task_pages(),
        **objective_pages(),
        **file_pages(),
        **command_page(),
        **api_pages(),
        **notebook_pages(),
    }


def with_links(path: str, text: str) -> str:
    """A page that is written by hand, with links to generated pages that its source can't have.

    In the repository there are no generated pages. On the site, names in the first column of a table lead to them,
    instead of to a paper, which is linked there too; notebooks are pages.
    """
    text = re.sub(r"\((notebooks/\w+)\.ipynb\)", r"(\1.md)", text)
    folder = {"methods.md": "methods", "tasks.md": "tasks", "objectives.md": "objectives"}.get(path)
    if folder is None:
        return text
    from .plugins import registered

    known = registered()[folder]
    return re.sub(
        r"^\| \[?`([\w-]+)`(?:\]\(http.*?\))? \|",
        lambda found: f"| [`{found[1]}`]({folder}/{found[1]}.md) |" if found[1] in known else found[0],
        text,
        flags=re.M,
    )
