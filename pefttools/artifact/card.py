"""The model card of an artifact, written from its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pefttools.artifact.manifest import Manifest
from pefttools.methods import methods


def model_card(manifest: Manifest, adapter: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        manifest: the artifact's manifest.
        adapter: its ``adapter_config.json``; a library's method may write pefttools' own files for some bases.
    """
    base, method, task = manifest.base, manifest.method, manifest.task
    # JSON strings are YAML strings: nothing in a name can break out of the front matter.
    front = [
        "---",
        f"library_name: {'pefttools' if 'pefttools_method' in adapter else methods.get(method.name).library}",
        f"base_model: {json.dumps(base.id, ensure_ascii=False)}",
        f"tags: {json.dumps(['pefttools', method.name, task.name], ensure_ascii=False)}",
        "---",
    ]
    looked_up = ', knowledge="path/to/an/index"' if manifest.knowledge is not None else ""
    made = "made with pefttools" if manifest.imported is None else "imported into pefttools"
    lines = [
        "",
        f"# {plain(method.name)} for {plain(task.name)}",
        "",
        f"An adapter for `{plain(base.id)}`, {made}.",
        "",
        "| | |",
        "|---|---|",
        *_facts(manifest),
        "",
        "```python",
        "import pefttools",
        "",
        'model = pefttools.load("path/to/this/folder")',
        f"print(pefttools.predict(model, [{_example(manifest)}]{looked_up}))",
        "```",
        "",
    ]
    return "\n".join([*front, *lines])


def _facts(manifest: Manifest) -> list[str]:
    """Rows of the card's table."""
    base, method, task = manifest.base, manifest.method, manifest.task
    options = ", ".join(f"{key}={value}" for key, value in method.config.items()) or "none"
    variant = f", trained in the number format {plain(base.variant)}" if manifest.imported is None else ""
    lines = [
        f"| method | {plain(method.name)} ({plain(options)}) |",
        f"| base | {plain(base.id)} ({plain(base.model_type)}){variant} |",
        f"| base weights | sha256 `{base.weights}` |",
        f"| trained parameters | {manifest.parameters['trainable']:,} of {manifest.parameters['total']:,} |",
        f"| stored as | {manifest.storage} |",
    ]
    if manifest.imported is not None:
        lines.append(f"| imported | {plain(manifest.imported.origin())} |")
    if (said := manifest.passages()) is not None:
        lines.append(f"| passages | {plain(said)} |")
    if task.labels:
        shown = ", ".join(plain(label) for label in task.labels[:20])
        more = f" and {len(task.labels) - 20} more" if len(task.labels) > 20 else ""
        lines.append(f"| labels | {shown}{more} |")
    for split, cuts in manifest.training.get("cut", {}).items():
        if cuts["cut"]:
            limit = f"{cuts['limit']} {cuts.get('unit', 'tokens')}"
            lines.append(
                f"| {split} rows truncated | {cuts['cut']:,} of {cuts['rows']:,}, to {limit}; the longest has "
                f"{cuts['longest']:,} |"
            )
    if reason := manifest.training.get("did_not_learn"):
        lines.append(f"| **did not learn** | {plain(str(reason))} |")
    for split, metrics in manifest.metrics.items():
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        lines.append(f"| {split} | {plain(values)} |")
    return lines


def _example(manifest: Manifest) -> str:
    """A row as the model takes it: a text, or the cells of several columns."""
    entry, found = manifest.task, manifest.knowledge
    task = entry.stored("the manifest's task")
    looked_up = None if found is None or found.into == found.query else found.into
    roles = [
        name
        for name, role in task.roles.items()
        if role.is_input and (role.required or name in (entry.columns or ())) and name != looked_up
    ]
    if len(roles) < 2:
        return '"..."'
    cells = {name: '["...", "..."]' if task.roles[name].kind == "choices" else '"..."' for name in roles}
    return "{" + ", ".join(f'"{name}": {cell}' for name, cell in cells.items()) + "}"


def plain(text: str) -> str:
    """Text in which nothing ends a table cell or starts markup."""
    for sign in ("\\", "|", "<", ">", "`", "[", "]"):
        text = text.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, f"\\{sign}"))
    return text.replace("\n", " ")
