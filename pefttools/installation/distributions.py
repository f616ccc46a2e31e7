"""Installed distributions, compared with what pefttools' own metadata asks for."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import TYPE_CHECKING

from pefttools.installation.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OURS = "pefttools"
#: what an extra brings; a test compares the names with pyproject.toml
EXTRAS = {
    "demo": "the base and the data of the examples, as packages; .gguf files",
    "files": "xlsx files",
    "images": "images",
    "scores": "BLEU, chrF, ROUGE and word error rates",
    "audio": "audio files",
    "onnx": "merged models as ONNX graphs",
    "torchao": "further number formats of a base's weights",
    "sign": "signatures of artifacts",
    "ray": "several replicas of the server",
    "serve": "the server",
    "test": "the tests of a checkout",
    "docs": "the documentation as a site",
    "dev": "hooks before a commit, spelling, coverage, checks of a release",
}
#: more packages of an extra than this, such as developers' tools, are not listed by name
_LISTED = 6


def python() -> Iterator[Finding]:
    """The interpreter."""
    from packaging.specifiers import SpecifierSet

    found = platform.python_version()
    wanted = distribution(OURS).metadata["Requires-Python"]
    data = {"version": found, "executable": sys.executable}
    text = f"{found}, {sys.executable}"
    if wanted and not SpecifierSet(wanted).contains(found, prereleases=True):
        yield Finding("packages", "python", "problem", f"{text}; needs {wanted}", "Use a newer Python.", data)
        return
    yield Finding("packages", "python", "ok", text, data=data)


def required() -> Iterator[Finding]:
    """pefttools, and each distribution that it can't do without."""
    yield Finding("packages", OURS, "ok", version(OURS), data={"version": version(OURS)})
    for one in _requirements(None):
        found, wrong = _installed(one)
        data = {"version": found, "wanted": str(one.specifier)}
        if wrong is None:
            yield Finding("packages", one.name, "ok", str(found), data=data)
        else:
            yield Finding("packages", one.name, "problem", wrong, f'pip install "{one.name}{one.specifier}"', data)


def extras() -> Iterator[Finding]:
    """The optional parts, and what is missing of each."""
    for extra in distribution(OURS).metadata.get_all("Provides-Extra") or ():
        found: dict[str, str | None] = {}
        missing, wrong = [], []
        for one in _requirements(extra):
            found[one.name], problem = _installed(one)
            if found[one.name] is None:
                missing.append(one.name)
            elif problem is not None:
                wrong.append(f"{one.name} {problem}")
        brings = EXTRAS.get(extra, "")
        command = f'pip install "{OURS}[{extra}]"'
        data = {"brings": brings, "packages": found, "command": command}
        if missing or wrong:
            named = ", ".join(missing) if len(missing) <= _LISTED else f"{len(missing)} packages"
            problems = [*([f"without {named}"] if missing else []), *wrong]
            text = f"{brings}: {', '.join(problems)}"
            yield Finding("extras", extra, "note", text, command, data)
        else:
            versions = ", ".join(f"{name} {number}" for name, number in found.items())
            text = brings if len(found) > _LISTED else f"{brings}: {versions}"
            yield Finding("extras", extra, "ok", text, data=data)


def _installed(one: Requirement) -> tuple[str | None, str | None]:
    """The installed version, and what is wrong with it."""
    try:
        found = version(one.name)
    except PackageNotFoundError:
        return None, "is not installed"
    if one.specifier.contains(found, prereleases=True):
        return found, None
    return found, f"{found} is installed, but {one.specifier} is needed"


def _requirements(extra: str | None) -> Iterator[Requirement]:
    """What pefttools requires on this system; of an extra, only what it adds."""
    from packaging.requirements import Requirement

    for line in distribution(OURS).requires or ():
        one = Requirement(line)
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        if extra is None:
            if always:
                yield one
        elif not always and one.marker is not None and one.marker.evaluate({"extra": extra}):
            if one.name == OURS:
                for inner in sorted(one.extras):
                    yield from _requirements(inner)
            else:
                yield one
