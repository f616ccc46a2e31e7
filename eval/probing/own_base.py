"""Probing the user's own model: its task and rows are chosen by what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pefttools.bases.model_class import MODALITIES, main_input
from pefttools.bases.skeleton import skeleton
from pefttools.errors import ConfigError
from pefttools.recipe import choose_task

from .families import LABELS, TASKS, Bench, rows_of


def bench_of(base: str, folder: Path, task: str | Mapping[str, Any] | None = None) -> Bench:
    """A model with a task that it can be trained for, and rows.

    Args:
        base: folder, ``package:`` reference or hub id.
        folder: for images and audio.
        task: None to choose it by what the model reads and writes.

    Raises:
        PeftToolsError: no such base; a task for which no rows can be made here.
    """
    chosen: Mapping[str, Any] = (
        TASKS[_kind(base)] if task is None else {"name": task} if isinstance(task, str) else task
    )
    built = choose_task(dict(chosen))
    needed = {role for role, must in built.columns().items() if must}
    rows = rows_of(built.modality, folder)
    made = set(rows[0]) if rows else {built.main_role(), "label"}
    if not built.generates and not needed <= made:
        raise ConfigError(
            f"no rows can be made here for the task {built.name!r}: it needs {', '.join(sorted(needed - made))}",
            hint="Use pefttools.testing.check_method with rows of your own.",
        )
    return Bench(base, base, chosen, LABELS if built.has_labels else (), rows)


def _kind(base: str) -> str:
    config = skeleton(base).configuration()
    reads = MODALITIES.get(main_input(config), "text")
    if reads == "image":
        return "image"
    if reads == "audio":
        return "audio"
    if hasattr(config, "vision_config"):
        return "image-text"
    if config.is_encoder_decoder:
        return "encoder-decoder"
    writes = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())
    return "decoder" if writes else "encoder"
