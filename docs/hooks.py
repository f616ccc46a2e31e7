"""Hooks of mkdocs: adds the generated pages to the site; as a program, writes them into a folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generate.pages import generated_pages, with_links
from generate.probe import FINDINGS
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
#: of this process; `mkdocs serve` builds several times
_state: dict[str, Any] = {}


@event_priority(100)  # before mkdocstrings reads where the sources are
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Entries of the navigation that end in a slash become the generated pages of that folder."""
    _state["pages"] = generated_pages()
    config.nav = _expanded(config.nav)
    sources = Path(_state.setdefault("folder", tempfile.TemporaryDirectory(prefix="pefttools-docs-")).name)
    _lay_out(sources)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(sources)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the probe's page with filters."""
    for path, text in _state["pages"].items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "probe.html", abs_src_path=str(FINDINGS.with_suffix(".html"))))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Link to generated pages from those that are written by hand."""
    return with_links(page.file.src_uri, markdown)


def on_shutdown() -> None:
    """Remove the temporary folder."""
    if "folder" in _state:
        _state.pop("folder").cleanup()


def _expanded(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_expanded(one) for one in nav]
    if isinstance(nav, dict):
        return {title: _expanded(one) for title, one in nav.items()}
    if isinstance(nav, str) and nav.endswith("/"):
        # With titles of their own, since the headings are in backticks.
        return [{Path(path).stem: path} for path in sorted(_state["pages"]) if path.startswith(nav)]
    return nav


def _lay_out(folder: Path) -> None:
    """The packages as they are when installed, since adapters/ and eval/ are not inside of pefttools/ here."""
    for name, place in (("pefttools", ""), ("adapters", "adapters"), ("eval", "eval")):
        target = folder / "pefttools" / place
        shutil.copytree(_ROOT / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> None:
    """Write the generated pages into the folder that is named."""
    folder = Path(sys.argv[1])
    for path, text in generated_pages().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
