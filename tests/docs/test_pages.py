"""The pages that are written by hand: all in the navigation, and what they say of the code is so."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree

import yaml

from pefttools.errors import PeftToolsError
from pefttools.recipe import Recipe, validate

from .pages import DOCS, ROOT, generated, navigation


def test_every_page_is_in_the_navigation_once() -> None:
    nav = navigation()
    assert len(set(nav)) == len(nav)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    folders = tuple(one for one in nav if one.endswith("/"))
    assert written | {path for path in generated() if not path.startswith(folders)} == set(nav) - set(folders)
    assert all(any(path.startswith(folder) for path in generated()) for folder in folders)


def test_no_link_leaves_the_folder() -> None:
    """What is outside is not on the site; a strict build would fail."""
    for path in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                inside = (path.parent / target).resolve().relative_to(DOCS).as_posix()
                assert inside in generated() or (DOCS / inside).is_file(), (path.name, target)


def test_troubleshooting_quotes_messages_that_exist() -> None:
    said = set()
    for folder in ("pefttools", "adapters", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            said |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    everything = "\n".join(said)
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    first = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    quoted = [text for cell in first for text in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 25
    missing = [text for text in quoted if text not in everything and not _made_of(text, everything)]
    assert not missing, missing


def _made_of(text: str, everything: str) -> bool:
    """`unknown method`: the kind of plugin is filled in."""
    return text.startswith("unknown ") and "unknown " in everything


def test_the_tree_of_exceptions() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    tree = page.partition("```text\nPeftToolsError")[2].partition("```")[0]
    stack: list[str] = ["PeftToolsError"]
    pairs = set()
    for line in tree.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        stack[depth:] = [line.strip()]
        pairs.add((line.strip(), stack[depth - 1]))

    def below(kind: type[PeftToolsError]) -> set[tuple[str, str]]:
        own = [one for one in kind.__subclasses__() if one.__module__ == "pefttools.errors"]
        return {(one.__name__, kind.__name__) for one in own}.union(*map(below, own))

    assert pairs == below(PeftToolsError)


def test_the_quickstart_s_files_are_valid() -> None:
    from pefttools.eval.spec import BenchSpec

    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    recipe, spec = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.S))
    assert validate(Recipe, recipe, "recipe.yaml").output.name == "support"
    assert validate(BenchSpec, spec, "compare.yaml").baseline in spec["methods"]
    (program,) = re.findall(r"```python\n(import csv.*?)```", page, re.S)
    compile(program, "quickstart", "exec")


def test_pictures_are_complete_in_themselves() -> None:
    """No scripts, no fonts, nothing from elsewhere, and a title for those who can't see them."""
    pictures = list((DOCS / "images").glob("*.svg"))
    assert pictures
    for path in pictures:
        tree = ElementTree.parse(path)
        names = {element.tag.rpartition("}")[2] for element in tree.iter()}
        assert "title" in names and not names & {"script", "image", "foreignObject", "use"}
        assert "http" not in path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")


def test_nothing_comes_from_other_hosts() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert ("extra_javascript" not in settings and "extra_css" not in settings) or all(
        "//" not in one for one in [*settings.get("extra_javascript", []), *settings.get("extra_css", [])]
    )
