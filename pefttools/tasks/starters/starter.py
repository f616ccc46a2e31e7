"""What a starter is: a few files, among them a recipe, rows and the commands to begin with.

Starters have an entry-point group of their own, and are no attribute of a task: a task may have several, and another
package may bring one for a task of ours. The built-in ones lie here, next to the tasks that they name.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from abc import ABC
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from pefttools.errors import ConfigError
from pefttools.files import write_text_atomic
from pefttools.registry import Registry

#: what stands for the base model in the files of a starter
BASE = "{{base}}"


class Starter(ABC):
    """A folder to copy, with its base model filled in."""

    #: as it is registered, and the folder of its files next to the module of its class
    name: ClassVar[str]
    #: one line about it
    summary: ClassVar[str]
    #: the base model if the user names none
    base: ClassVar[str]

    @classmethod
    def contents(cls, base: str) -> dict[str, str]:
        """File name -> text."""
        package = sys.modules[cls.__module__].__package__
        assert package is not None, f"{cls.__module__} is in no package"
        folder = files(package) / cls.name
        return {
            one.name: _filled(one.name, one.read_text(encoding="utf-8"), base)
            for one in folder.iterdir()
            if one.is_file()
        }


def _filled(name: str, text: str, base: str) -> str:
    """A text with the base model as its language writes it: YAML, or the commands of a README."""
    if name.endswith(".yaml") and not re.fullmatch(r"[\w./:=@+-]+", base):
        return text.replace(BASE, json.dumps(base, ensure_ascii=False))
    return text.replace(BASE, shlex.quote(base) if name.endswith(".md") else base)


starters: Registry[Starter] = Registry("pefttools.starters", "starter", base="pefttools.tasks.starters.starter:Starter")


def new(kind: str, folder: str | Path, *, base: str | None = None) -> Path:
    """Write a folder to start from: a recipe, sample rows, and a README.md with the commands.

    Args:
        kind: name of a starter; ``pefttools new --help`` lists them.
        folder: where to; it must not exist, or be empty.
        base: base model for the recipe; None for the starter's own.

    Returns:
        The folder.

    Raises:
        UnknownNameError: no such starter.
        ConfigError: something is in the folder.
    """
    starter = starters.get(kind)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not empty", hint="Name a folder that does not exist yet.")
    base = base or starter.base
    if Path(base).expanduser().exists():
        base = str(Path(base).expanduser().resolve())  # the commands are run in the new folder
    contents = starter.contents(base)
    for name, text in contents.items():
        write_text_atomic(target / name, text)
    return target
