"""The environment of a run: packages, pefttools' own code, and the machine."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pefttools.methods import Method

#: packages whose versions affect the result of a run
PACKAGES = ("pefttools", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "evaluate")
#: facts of `hardware` that times and rounding depend on
_MACHINE = ("system", "processor", "cores", "gpu")


@dataclass(frozen=True)
class Environment:
    """What a run depends on, besides its recipe and data.

    Attributes:
        packages: distribution -> version.
        code: digest of the source of pefttools and of this harness; None if not known, as in records of earlier
            versions.
        method_code: the same for the method.
        machine: facts of the hardware.
    """

    packages: Mapping[str, str]
    code: str | None
    method_code: str | None
    machine: Mapping[str, Any]

    @classmethod
    def of(
        cls, packages: Mapping[str, str], code: str | None, method_code: str | None, hardware: Mapping[str, Any]
    ) -> Environment:
        """From the fields of a record."""
        return cls(dict(packages), code, method_code, {name: hardware.get(name) for name in _MACHINE})

    def differences(self, other: Environment, *, same_method: bool) -> list[str]:
        """How it differs from another one, a few words each.

        Args:
            other: what it is compared with.
            same_method: both are of the same method, whose code must then be the same too.
        """
        found = [
            f"{name} {self.packages.get(name, 'not installed')} instead of {other.packages.get(name, 'none')}"
            for name in sorted(self.packages.keys() | other.packages.keys())
            if self.packages.get(name) != other.packages.get(name)
        ]
        if self.code != other.code and not any(text.startswith("pefttools ") for text in found):
            found.append("different code of pefttools")
        if same_method and self.method_code != other.method_code:
            found.append("different code of the method")
        found += [
            f"{name} {self.machine[name]} instead of {other.machine[name]}"
            for name in _MACHINE
            if self.machine[name] != other.machine[name]
        ]
        return found


def this_environment(method: type[Method[Any]]) -> Environment:
    """The environment of this process, for a run of a method."""
    from pefttools.artifact.save import package_versions

    from .hardware import hardware

    return Environment.of(package_versions(PACKAGES), code_digest(), code_digest(method), hardware())


def code_digest(method: type[Method[Any]] | None = None) -> str:
    """sha256 of the source of pefttools and of this harness, or of the folder that contains a method."""
    import pefttools

    digest = hashlib.sha256()
    sources = (str(pefttools.__file__), __file__) if method is None else (inspect.getfile(method),)
    for source in sources:
        folder = Path(source).parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{file.relative_to(folder)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
