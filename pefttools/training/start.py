"""Training that starts from the weights of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pefttools.artifact.load import check_base, load_verified
from pefttools.artifact.manifest import Manifest
from pefttools.artifact.reading import hold_weights
from pefttools.bases import Base
from pefttools.errors import ConfigError
from pefttools.methods import Method, MethodConfig
from pefttools.recipe import stored_method
from pefttools.tasks import tasks
from pefttools.tasks.passages import Placement
from pefttools.tasks.task import Example, Task
from pefttools.training.checkpoints import put_state
from pefttools.training.transfer import take_over
from pefttools.tuned import TunedModel

#: largest difference of logits that is taken for rounding, as a share of the largest logit
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parent:
    """A verified artifact of the same base and method.

    Attributes:
        folder: its path.
        manifest: its manifest.
        digest: digest of the manifest, and so of everything in the artifact.
        same_task: whether it was trained for the same task; if not, only its adapter is used, and the head is new.
    """

    folder: Path
    manifest: Manifest
    digest: str
    same_task: bool = True

    def as_dict(self) -> dict[str, str]:
        """For the manifest of what is trained from it."""
        return {"name": self.folder.resolve().name, "digest": self.digest, "task": self.manifest.task.name}

    def said(self) -> str:
        """What of it training starts from."""
        if self.same_task:
            return f"starting from the weights of {self.folder}"
        return f"starting from the adapter of {self.folder}, trained for {self.manifest.task.name}; the head is new"

    def labels(self, found: Sequence[str]) -> list[str]:
        """The artifact's labels, which its head was trained for; those of the rows if the head is new.

        Raises:
            ConfigError: the training rows have further ones.
        """
        if not self.same_task:
            return list(found)
        known = self.manifest.task.labels
        if unknown := [label for label in found if label not in known]:
            raise ConfigError(
                f"from: {self.folder} does not know the label {unknown[0]!r} of the training rows",
                hint="Its head has one output for each label that it was trained on. Train without `from`.",
            )
        return list(known)

    def check_passages(self, placement: Placement | None) -> None:
        """Refuse rows with other passages than those that the artifact was trained on.

        Args:
            placement: of the recipe.

        Raises:
            ConfigError: only one of them has passages, or they are in another place.
        """
        if not self.same_task:
            return
        mine = None if placement is None else (placement.query, placement.into)
        found = self.manifest.knowledge
        if mine != (None if found is None else (found.query, found.into)):
            said = self.manifest.passages() or "trained on rows without passages that were looked up"
            raise ConfigError(
                f"from: {self.folder} was {said}, which those of the recipe are not",
                hint="Give the recipe the same knowledge.query and knowledge.into, or none.",
            )


def open_parent(folder: Path, base: Base, method: Method[Any], config: MethodConfig, task: Task[Any]) -> Parent:
    """Verify an artifact that training is to start from.

    Raises:
        ArtifactError: it is damaged.
        BaseModelError: it belongs to a different base.
        ConfigError: it has a different method or different options.
    """
    with hold_weights(folder) as held:
        manifest = held.manifest
    check_base(manifest, base)
    mine = {"name": method.name, **method.describe(method.trained(config))}
    parent, options = stored_method(manifest.method.name, manifest.method.config, manifest.schema_version, str(folder))
    theirs = {"name": parent.name, **parent.describe(options)}
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise ConfigError(
                f"from: {folder} was trained with method.{name}={theirs.get(name)!r}, "
                f"but the recipe says {mine.get(name)!r}",
                hint="Training can only continue with the method and options that made the weights.",
            )
    same = manifest.task.name == task.name
    if not same:
        other = tasks.get(manifest.task.name)
        if any(one.encoder_decoder or one.modality != "text" for one in (task, other)):
            raise ConfigError(
                f"from: {folder} was trained for the task {manifest.task.name!r}, whose adapter the task {task.name!r} "
                "can't take over",
                hint="That is possible among tasks that read texts, without a decoder of their own.",
            )
    return Parent(folder, manifest, held.digest, same)


def start_from(model: TunedModel, parent: Parent, probe: Sequence[Example]) -> None:
    """Put an artifact's weights into a model that is ready for training, and check that it answers like the artifact.

    Args:
        model: as it was built for training.
        parent: the artifact.
        probe: some encoded rows.

    Raises:
        ConfigError: the artifact does not have the weights that are to be trained, or the model answers differently.
    """
    spec = model.spec
    if parent.same_task and parent.manifest.task.head != spec.head_kind:
        raise ConfigError(f"from: {parent.folder} has the head {parent.manifest.task.head!r}, not {spec.head_kind!r}")
    with hold_weights(parent.folder) as held:
        if held.digest != parent.digest:
            raise ConfigError(f"from: {parent.folder} has been replaced since training began")
        loaded = load_verified(held.folder, held.manifest, spec.base, variant=spec.variant.name, device=model.device)
    loaded.autocast = model.autocast
    inputs = [{key: value for key, value in example.items() if key != "labels"} for example in probe]
    if not parent.same_task:
        take_over(model, loaded, parent.folder, inputs, _TOLERANCE)
        return
    weights = dict(loaded.named_parameters())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    shapes = dict(model.named_parameters())
    if unlike := [name for name in names if name not in weights or weights[name].shape != shapes[name].shape]:
        raise ConfigError(
            f"from: {parent.folder} can't be trained further: the method {spec.method.name!r} stores it in a different "
            f"form than it trains it in ({unlike[0]})"
        )
    expected = loaded.run(inputs).float()
    put_state(model, {name: weights[name].detach() for name in names}, f"from: {parent.folder}")
    del loaded, weights
    found = model.run(inputs).float()
    if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE * max(1.0, float(expected.abs().max()))):
        raise ConfigError(
            f"from: with the weights of {parent.folder} the model gives different answers than the artifact: logits "
            f"differ by up to {float((found - expected).abs().max()):.3g}",
            hint=f"The method {spec.method.name!r} keeps more in an artifact than the weights that it trains.",
        )
