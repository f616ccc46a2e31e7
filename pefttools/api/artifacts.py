"""What can be done with saved artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pefttools.api.models import PathLike, save
from pefttools.artifact import Manifest, read_manifest
from pefttools.artifact.effect import warn_without_effect
from pefttools.artifact.load import find_base
from pefttools.artifact.reading import hold
from pefttools.artifact.signing import new_key, trusted
from pefttools.artifact.signing import sign as sign_artifact
from pefttools.errors import UnknownNameError
from pefttools.tuned import TunedModel


def inspect(folder: PathLike) -> Manifest:
    """The manifest of an artifact; warns if it has no effect on its base."""
    manifest = read_manifest(Path(folder))
    warn_without_effect(Path(folder), manifest)
    return manifest


def norms(folder: PathLike, *, base: str | None = None) -> dict[str, dict[str, float]]:
    """The norm of an adapter's change at each site of its base; loads the base.

    Args:
        folder: the artifact.
        base: path of the base model, if it has moved.

    Returns:
        Site -> kind of change -> its Frobenius norm; of a factor that multiplies, that of its distance from 1.

    Raises:
        ConfigError: the method has no delta form.
    """
    from pefttools.artifact.convert import site_norms

    return site_norms(Path(folder), base)


def verify(
    folder: PathLike,
    *,
    base: str | None = None,
    check_base: bool = True,
    rehash: bool = False,
    signed_by: Sequence[PathLike] = (),
) -> Manifest:
    """Check every file of an artifact, and that its base is the one it was trained on.

    Args:
        folder: the artifact.
        base: path of the base model; None for the one in the manifest.
        check_base: whether to check the base.
        rehash: hash the base's weights again instead of trusting cached digests.
        signed_by: public keys, one of which must have signed it; if empty, a signature is not required.

    Raises:
        ArtifactError: a file is damaged or missing, or the artifact is not signed.
        BaseModelError: the base is a different one, or can't be found.
    """
    with hold(Path(folder), trusted(signed_by)) as held:
        pass
    if check_base:
        find_base(held.manifest, base, rehash=rehash)
    return held.manifest


def merge(
    artifact: PathLike,
    output: PathLike,
    *,
    base: str | None = None,
    format: str = "transformers",
    overwrite: bool = False,
) -> Path:
    """Merge an adapter into its base and write a plain model in float32, with a card that says how to use it.

    The written model is loaded again with the other library alone; it must give the adapter's logits.

    Args:
        artifact: folder of the artifact.
        output: folder to write.
        base: path of the base model, if it has moved.
        format: ``transformers``: a model for ``from_pretrained`` and ``pipeline``; a pooling head is written next to it
            as ``head.safetensors``, and the card has the code that applies it. ``sentence-transformers``: pooling,
            linear layer and softmax as modules of that library, so that ``encode`` gives each label's probability.
            ``onnx``: a graph from token ids to logits, for one label or an embedding per text. ``onnx-int8``: the same
            with weights in 8 bits, whose logits differ a little; a warning says by how much.
        overwrite: replace an existing model.

    Raises:
        ConfigError: the method can't be merged, the format does not fit the head, or the output can't be replaced.
        MergeError: the written model does not give the adapter's logits.
    """
    from pefttools.artifact.merge import merge_artifact

    return merge_artifact(Path(artifact), Path(output), base=base, format=format, overwrite=overwrite)


def export(
    artifact: PathLike,
    output: PathLike,
    *,
    format: str = "peft-lora",
    rank: int | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> float:
    """Write an adapter in a format that other servers load.

    Args:
        artifact: folder of the artifact.
        output: folder to write.
        format: ``peft-lora``.
        rank: maximum rank of a site; required if the adapter is not itself a low-rank update.
        base: path of the base model, if it has moved.
        overwrite: replace an existing adapter.

    Returns:
        The relative error: Frobenius norm of what was left out, divided by that of the whole change; 0 if exact.

    Raises:
        ConfigError: an adapter that is not a change of linear layers' weights, or the output can't be replaced.
    """
    from pefttools.artifact.convert import export_lora

    if format != "peft-lora":
        raise UnknownNameError("format", format, ["peft-lora"])
    return export_lora(Path(artifact), Path(output), rank=rank, base=base, overwrite=overwrite).error


def compose(
    artifacts: Sequence[PathLike],
    weights: Sequence[float],
    output: PathLike,
    *,
    rule: str = "sum",
    density: float | None = None,
    seed: int = 0,
    rank: int | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> float:
    """Save the weighted sum of adapters of one base and task as an artifact; returns the relative error, see `export`.

    Args:
        artifacts: two or more.
        weights: one for each.
        output: folder to write.
        rule: ``sum``; or ``ties``, ``dare-linear``, ``dare-ties``, ``magnitude-prune``, with a density and a rank.
        density: share of the entries of each change that a rule keeps.
        seed: for the entries that are dropped at random.
        rank: maximum rank of a layer's update; None for as high as needed, which is exact for the sum.
        base: path of the base model, if it has moved.
        overwrite: replace an existing artifact.

    Raises:
        ConfigError: adapters that can't be combined, or the output can't be replaced.
    """
    from pefttools.artifact.convert import compose as composed

    folders = [Path(one) for one in artifacts]
    options = {"rule": rule, "density": density, "seed": seed, "rank": rank}
    return composed(folders, weights, Path(output), **options, base=base, overwrite=overwrite).error  # type: ignore[arg-type]


def import_adapter(
    source: PathLike,
    base: str,
    output: PathLike,
    *,
    labels: Sequence[str] = (),
    task: str | Mapping[str, Any] | None = None,
    variant: str = "float32",
    overwrite: bool = False,
) -> Manifest:
    """Make an artifact from an adapter that another program trained, e.g. from a PEFT folder.

    Args:
        source: a folder, or a hub id (``ORG/NAME`` or ``ORG/NAME@REVISION``).
        base: the base model that it was trained on; nothing in a foreign folder verifies it.
        output: folder of the artifact; nothing is written unless everything fits.
        labels: label names in the order of the head's outputs; if empty, those of the source's or the base's
            configuration.
        task: name of the task, or a mapping with name and options; None to take what the source says.
        variant: number format of the base's weights.
        overwrite: replace an existing artifact.

    Raises:
        ArtifactError: the source is damaged or does not fit the base.
        ConfigError: something in it can't be represented, or labels that don't match the head.
    """
    from pefttools.importers.importing import import_folder

    return import_folder(
        str(source), base, Path(output), labels=labels, task=task, variant=variant, overwrite=overwrite
    )


def push_to_hub(model: TunedModel | PathLike, repository: str, *, private: bool = True) -> str:
    """Upload an adapter to the Hugging Face hub in one commit; returns the commit's URL.

    Args:
        model: a tuned model, or the folder of an artifact, which is verified first.
        repository: ``ORG/NAME``, or ``ORG/NAME@BRANCH``; created if it does not exist.

        private: visibility of a repository that is created.

    Raises:
        ArtifactError: the artifact is damaged.
        HubError: the hub could not be reached, or refused.
    """
    import tempfile

    from pefttools.store.hub import push

    target = repository if repository.startswith("hub:") else f"hub:{repository}"
    if not isinstance(model, TunedModel):
        return push(Path(model), target, private=private)
    with tempfile.TemporaryDirectory() as spare:
        save(model, Path(spare, "artifact"))
        return push(Path(spare, "artifact"), target, private=private)


def sign(folder: PathLike, key: PathLike) -> Path:
    """Sign an artifact; `load`, `verify` and a server ask for signatures by ``signed_by``.

    Args:
        folder: the artifact.
        key: file of a private key, as written by `signing_key`.

    Returns:
        The file of the signature.

    Raises:
        ArtifactError: the artifact is damaged.
        ConfigError: the key can't be read.
    """
    return sign_artifact(Path(folder), Path(key))


def signing_key(file: PathLike) -> Path:
    """Make a key to sign artifacts with.

    Args:
        file: for the private key.

    Returns:
        The file of the public key, for those who verify.

    Raises:
        ConfigError: the file exists already.
    """
    return new_key(Path(file))
