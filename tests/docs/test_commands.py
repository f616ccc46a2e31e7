"""What the pages tell a reader to type works: each page's commands and programs, in its order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from pefttools.bases import variants
from pefttools.errors import ArtifactError
from pefttools.eval.continual_learning.spec import ContinualSpec
from pefttools.eval.spec import BenchSpec
from pefttools.eval.spec import plan as runs_of
from pefttools.methods import methods
from pefttools.objectives import objectives
from pefttools.recipe import Recipe, choose_objectives, choose_task, validate
from pefttools.registry import Registry
from pefttools.tasks import tasks
from tests.commands import parse, parse_mention

from .blocks import PAGES, SHELL, SHOWN, blocks, inline
from .followed import FOLLOWED
from .following import Follower, Page, occurs
from .pages import ROOT

REGISTRIES: tuple[Registry[Any], ...] = (methods, objectives, tasks, variants)
QUICK = [name for name, page in FOLLOWED.items() if page.quick]


def _follow(name: str, page: Page, request: pytest.FixtureRequest, folder: Path, *, whole: bool) -> None:
    patch = request.getfixturevalue("monkeypatch")
    patch.chdir(folder)
    patch.setenv("PEFTTOOLS_CACHE", str(folder / "cache"))
    before = {id(one): set(one.names()) for one in REGISTRIES}
    try:
        if page.after:
            other, until = page.after
            with Follower(FOLLOWED[other], request.getfixturevalue, patch, whole=False) as first:
                first.follow(other, until=until)
        with Follower(page, request.getfixturevalue, patch, whole=whole) as follower:
            follower.follow(name)
        assert follower.ran
    finally:
        for one in REGISTRIES:
            for added in set(one.names()) - before[id(one)]:
                one.unregister(added)


@pytest.mark.pages
@pytest.mark.parametrize("name", QUICK)
def test_a_first_page_works_as_written(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _follow(name, FOLLOWED[name], request, tmp_path, whole=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOLLOWED if FOLLOWED[name].long or name not in QUICK])
def test_a_page_works_as_written(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _follow(name, FOLLOWED[name], request, tmp_path, whole=True)


def _runnable(name: str) -> list[str]:
    found = [one for one in blocks(name) if one.language in SHELL or one.language == "python"]
    return [text for one in found for text in (one.commands() if one.language in SHELL else [one.text])]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_run_is_listed_with_a_reason(name: str) -> None:
    texts = _runnable(name)
    assert not texts or name in FOLLOWED, f"add {name} to tests/docs/followed.py"
    for block in blocks(name):
        assert block.language in (*SHELL, *SHOWN, "python", "yaml", "json", "toml"), block
    if name in FOLLOWED:
        page = FOLLOWED[name]
        files = [one.text for one in blocks(name) if one.file]
        everything = [*texts, *files, *(inline(name) if page.inline is not None else [])]
        stale = [key for key in page.parts() if not any(occurs(key, text) for text in everything)]
        assert not stale, f"{name} has no longer: {stale}"
        assert all(page.unrun.values()) and not (page.quick and page.inline)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_parses(name: str) -> None:
    for block in blocks(name):
        for command in block.commands() if block.language in SHELL else ():
            if command.startswith("pefttools ") and command.endswith(" ..."):
                parse_mention(command)
            elif command.startswith("pefttools "):
                parse(shlex.split(command))
    for command in inline(name):
        parse_mention(command)


def test_every_file_that_a_command_names_is_there() -> None:
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for path in re.findall(r"\b(?:examples|benchmarks|tests)/[\w./-]*\w", text):
            if not path.startswith("examples/data/"):  # made by examples/data.py
                assert (ROOT / path).exists(), (name, path)


def test_a_mention_with_an_unknown_option_is_found() -> None:
    parse_mention("pefttools plan --length")
    parse_mention("pefttools bench SPEC --jobs N")
    for wrong in ("pefttools bench SPEC --job 2", "pefttools benches SPEC", "pefttools --debugging COMMAND"):
        with pytest.raises(Exception, match=r"No such option|no command|--debugging"):
            parse_mention(wrong)


@pytest.mark.parametrize("name", PAGES)
def test_blocks_of_settings_are_valid(name: str) -> None:
    """Parts of a recipe or of a spec, in which what is required may be missing."""
    for block in blocks(name):
        if block.language == "yaml":
            _check_settings(yaml.safe_load(block.text), f"{name}, {block.text}")
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)


def _check_settings(given: dict[str, Any], where: str) -> None:
    model: type[Any] = ContinualSpec if "strategies" in given else BenchSpec if "methods" in given else Recipe
    least: dict[str, Any] = {"base": "base", "data": {"train": "train.csv"}, "output": "out"}
    least |= {"data": {"train": "train.csv", "test": 0.1}} if model is not Recipe else {}
    least |= {"methods": ["full"]} if model is BenchSpec else {"method": "lora"}
    valid = validate(model, {**least, **given}, where)
    recipes = [valid] if isinstance(valid, Recipe) else []
    recipes += [run.recipe for run in runs_of(valid)] if isinstance(valid, BenchSpec) else []
    for recipe in recipes:  # options too
        with suppress(ArtifactError):  # it builds on an adapter of the reader's
            recipe.chosen_method()
        choose_task(recipe.task)
        choose_objectives(recipe.objective)
