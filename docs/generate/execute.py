"""Run notebooks from first to last, and keep what they print: python docs/generate/execute.py FILE ..."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

#: what a machine or a moment adds to an output
_TRANSIENT = ("execution", "collapsed", "scrolled")


def executed(path: Path, folder: Path) -> Any:
    """A notebook with the outputs of a new kernel that works in `folder`.

    Raises:
        CellExecutionError: the first cell that failed, with its traceback.
    """
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for key in _TRANSIENT:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell["outputs"] = _joined(cell["outputs"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _without(output["text"], folder)
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output["data"][kind] = _without(value, folder)
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs in which one stream follows itself only once: a kernel sends what is printed in pieces of any size."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output["output_type"] == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _without(text: str, folder: Path) -> str:
    """Paths relative to where the notebook ran, and no trailing blanks, which editors remove."""
    return re.sub(r"[ \t]+$", "", text.replace(f"{folder}/", ""), flags=re.M)


def main() -> None:
    """Run the notebooks that are named, and write their outputs into them."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(Path(name), Path(folder))
        nbformat.write(notebook, name)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
