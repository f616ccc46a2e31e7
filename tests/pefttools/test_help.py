"""The help of every command, also of plugins': it ends with examples, they can be parsed, and it is quick."""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pefttools.cli.examples import add_command
from pefttools.cli.main import build_app
from tests.commands import ALL, parse

PROGRAM = Path(sys.executable).with_name("pefttools")


def _examples(command: Any) -> list[str]:
    """The lines below the heading at the end of a command's help."""
    lines = (command.epilog or "").splitlines()
    return [line.strip() for line in lines[2:]] if [line.strip() for line in lines[:2]] == ["\b", "Examples:"] else []


def test_all_commands_are_walked() -> None:
    assert {("train",), ("bench",), ("store", "tag"), ("api-key",), ("doctor",), ("new",)} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_with_examples_that_parse(path: tuple[str, ...]) -> None:
    examples = _examples(ALL[path])
    assert examples, f"pefttools {' '.join(path)} has no example: add 'Examples:' to the end of its docstring"
    shown = CliRunner().invoke(build_app(), [*path, "--help"], terminal_width=200).stdout
    assert shown.rstrip().endswith(examples[-1])
    assert "Examples:" not in ALL[path].help
    for one in examples:
        words = shlex.split(one.partition(" > ")[0])
        parse(words)
    name = " ".join(path).replace("bases", "variants")
    assert any(one.startswith(f"pefttools {name}") for one in examples)


def test_an_example_with_an_unknown_option_is_found() -> None:
    for wrong in ("pefttools train recipe.yaml --sett a=1", "pefttools train", "pefttools plan base --batch-size few"):
        with pytest.raises(Exception, match=r"No such option|Missing parameter|valid integer"):
            parse(shlex.split(wrong))


def test_a_plugins_command_gets_its_examples_from_its_docstring() -> None:
    def hello(name: str) -> None:
        """Say hello.

        To anybody.

        Examples:
            pefttools hello you
        """

    app = typer.Typer()
    add_command(app, hello)
    command = typer.main.get_command(app)
    assert command.help == "Say hello.\n\nTo anybody." and _examples(command) == ["pefttools hello you"]
    assert inspect.getdoc(hello)


def test_help_is_quick() -> None:
    """Nothing heavy is imported for any help."""
    program = """
import sys, typer
from typer.testing import CliRunner
from pefttools.cli.main import build_app
from tests.commands import ALL, parse
def walk(group, *path):
    for name, command in group.commands.items():
        yield from walk(command, *path, name) if hasattr(command, "commands") else [(*path, name)]
for words in [(), *walk(typer.main.get_command(build_app()))]:
    done = CliRunner().invoke(build_app(), [*words, "--help"])
    assert done.exit_code == 0, (words, done.output)
heavy = {"torch", "transformers", "peft", "datasets", "numpy", "pyarrow", "scipy", "sklearn", "httpx"}
heavy |= {"huggingface_hub", "uvicorn", "fastapi", "plotly", "jinja2", "yaml", "pefttools.api"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_and_names(tmp_path: Path) -> None:
    """As bash does when Tab is pressed: by the function that --show-completion prints."""
    wanted = {
        "pefttools cho": "choose",
        "pefttools plan base --task token": "token-classification",
        "pefttools plan base --methods lora,ia": "lora,ia3",
        "pefttools predict artifact --variant b": "bfloat16",
        "pefttools new cl": "classify",
        "pefttools store ta": "tag",
    }
    program = 'source <(pefttools --show-completion)\nfor line in "$@"; do\n  COMP_WORDS=($line)\n'
    program += "  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _pefttools_completion pefttools; echo ${COMPREPLY[*]}\ndone\n"
    environment = {**os.environ, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", program, "bash", *wanted], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.splitlines() == [*wanted.values()], done.stderr
