"""Checks of a release: what a wheel and a source distribution contain, and whether everything says the same version.

python .ci/packaged.py contents dist
python .ci/packaged.py version 0.2.0
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: folder of the checkout -> folder in the wheel
ROOMS = {"pefttools": "pefttools", "adapters": "pefttools/adapters", "eval": "pefttools/eval"}


def main() -> None:
    """Run a check; ends with what is wrong."""
    what, of = sys.argv[1:]
    wrong = {"contents": contents, "version": version}[what](of)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{what} of {of}: as it should be")


def contents(folder: str) -> list[str]:
    """What is wrong with the distributions in a folder."""
    wheels, sources = list(Path(folder).glob("*.whl")), list(Path(folder).glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        return [f"{folder} has {len(wheels)} wheels and {len(sources)} source distributions, not one of each"]
    return _of_the_wheel(wheels[0]) + _of_the_sources(sources[0])


def _tracked() -> set[str]:
    """Files of the package that belong to the repository."""
    done = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def _of_the_wheel(wheel: Path) -> list[str]:
    wanted = {ROOMS[path.partition("/")[0]] + "/" + path.partition("/")[2] for path in _tracked()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = configparser.ConfigParser(delimiters=("=",))
        points.optionxform = str  # type: ignore[assignment, method-assign]
        (described,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        points.read_string(archive.read(described).decode())
    info = described.partition("/")[0]
    found = {name for name in names if not name.startswith(f"{info}/")}
    wrong = [f"{wheel.name} lacks {name}" for name in sorted(wanted - found)]
    wrong += [f"{wheel.name} has {name}, which is not in the repository" for name in sorted(found - wanted)]
    if f"{info}/licenses/LICENSE" not in names:
        wrong.append(f"{wheel.name} lacks the license")
    declared = {"console_scripts": SETTINGS["project"]["scripts"], **SETTINGS["project"]["entry-points"]}
    if declared != {group: dict(points[group]) for group in points.sections()}:
        wrong.append(f"{wheel.name} has other entry points than pyproject.toml")
    return wrong


def _of_the_sources(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = _tracked() | {"pyproject.toml", "README.md", "LICENSE"}
    return [f"{archive.name} lacks {name}" for name in sorted(wanted - names)]


def version(wanted: str) -> list[str]:
    """Where another version than this one is said."""
    said = {
        "pefttools/__init__.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        # the newest that has been given a number
        "CHANGELOG.md": r"^## \[(\d.*?)\]",
    }
    wrong = []
    for name, pattern in said.items():
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)
        if found is None or found[1] != wanted:
            wrong.append(f"{name} says {found[1] if found else 'no version'}, not {wanted}")
    return wrong


if __name__ == "__main__":
    main()
