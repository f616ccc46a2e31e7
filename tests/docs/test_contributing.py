"""CONTRIBUTING.md leads to what is there, and leaves no room out."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.pefttools.test_layers import RANKS

from .pages import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: quoted words that are a path: of one of our folders, or a file in the checkout's own
PATHS = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|txt|yml|cff))`", PAGE))


def test_every_path_exists() -> None:
    assert len(PATHS) > 120
    missing = [
        path for path in PATHS if not ((ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file())
    ]
    assert not missing, missing


@pytest.mark.parametrize("folder", ["pefttools", "adapters", "eval"])
def test_every_room_is_described(folder: str) -> None:
    rooms = {f"{init.parent.relative_to(ROOT).as_posix()}/" for init in (ROOT / folder).rglob("__init__.py")}
    described = set(re.findall(r"^\| `([^`]+/)` \|", PAGE, re.M))
    assert not rooms - described
    assert {room for room in described if room.startswith(f"{folder}/")} == rooms


def test_rooms_of_the_core_stand_in_the_order_of_imports() -> None:
    rooms = re.findall(r"^\| `pefttools/(\w+)/", PAGE, re.M)
    ranks = [RANKS[room] for room in rooms]
    assert ranks == sorted(ranks, reverse=True)


def test_every_folder_at_the_top_is_described() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {f"{path.partition('/')[0]}/" for path in done.stdout.splitlines() if "/" in path}
    assert not folders - set(re.findall(r"^\| `([^`]+/)` \|", PAGE, re.M))


def test_each_answer_names_what_to_change_and_its_test() -> None:
    table = PAGE.partition("| to | change | tested by |")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ") and "---" not in row]
    assert len(rows) >= 10
    for what, change, test in rows:
        assert re.search(r"`(pefttools|adapters|eval)/", change), what
        named = re.findall(r"`(tests/[\w/]+\.py)`", test)
        assert named, what


def test_names_in_the_answers_are_in_a_file_that_they_name() -> None:
    """`KINDS` in a row stands in one of the files of that row."""
    table = PAGE.partition("| to | change | tested by |")[2].partition("\n\n")[0]
    for row in table.splitlines():
        files = [ROOT / path for path in re.findall(r"`([\w./]+\.py)`", row)]
        for name in re.findall(r"`(\w+)`", row):
            if name not in ("doctor",):
                assert any(name in file.read_text(encoding="utf-8") for file in files), name
