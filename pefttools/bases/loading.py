"""Loading a transformers model in a variant, frozen, with what must be kept out of quantization."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pefttools.bases.base import BaseVariant
from pefttools.bases.locate import Base
from pefttools.bases.model_class import TEXT, class_of, kept, stored_format
from pefttools.bases.packed_checkpoint import plain_weights
from pefttools.bases.quiet import quiet
from pefttools.bases.skeleton import Skeleton
from pefttools.errors import BaseModelError
from pefttools.sites import backbone_name

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_transformer(
    auto: Any,
    base: Base,
    variant: BaseVariant,
    *,
    pooler: bool = False,
    dtype: torch.dtype | None = None,
    reads: Collection[str] = TEXT,
    new_head: bool = False,
    **config_changes: Any,
) -> tuple[nn.Module, list[str]]:
    """Load a model through one of transformers' auto classes, all parameters frozen, in eval mode.

    Args:
        auto: the auto class.
        base: the base model's files.
        variant: number format of the weights, and the device that they are loaded to.
        pooler: with BERT's pooler, even if the auto class is AutoModel and the task reads the states themselves.
        dtype: number format to load the weights in; None for the variant's own.
        reads: main input of the model, by any of these names; one that reads something else is refused.
        new_head: parameters outside of the backbone that have a different shape in the files are initialised anew.
        config_changes: fields of the model's configuration to override.

    Returns:
        The model, and the names of its parameters that the files did not contain (freshly initialised).

    Raises:
        BaseModelError: the files contain no such model.
    """
    if isinstance(base, Skeleton):
        return base.transformer(auto, variant, pooler=pooler, reads=reads, **config_changes)
    changes = {} if dtype is None else {"dtype": dtype}
    model, info = _read(auto, base, variant, pooler, reads, new_head, config_changes, changes)
    resized = [name for name, *_ in info["mismatched_keys"]]
    if inside := [name for name in resized if name.startswith(f"{backbone_name(model)}.")]:
        raise BaseModelError(
            f"the base model {base.id!r} has {inside[0]} in a different shape than its configuration says"
        )
    _check_backbone(model, info["missing_keys"], base)
    variant.after_load(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    return model, sorted({*info["missing_keys"], *resized})


def _read(
    auto: Any,
    base: Base,
    variant: BaseVariant,
    pooler: bool,
    reads: Collection[str],
    new_head: bool,
    config_changes: dict[str, Any],
    own: dict[str, Any],
) -> tuple[nn.Module, dict[str, Any]]:
    """What transformers makes of the files, and what it says of their parameters; see `load_transformer`."""
    import torch
    from transformers import AutoConfig

    # Otherwise transformers loads a quantized model to whatever GPU is the current one, and any other to RAM, from
    # where it is moved as a whole.
    place = {} if variant.device is None else {"device_map": {"": variant.device}}
    plain = plain_weights(base.id, base.folder, variant.name, variant.quantized)
    try:
        config = AutoConfig.from_pretrained(base.folder, **config_changes)
        built = class_of(auto, config, pooler=pooler, reads=reads)
        with torch.device("meta"):
            skeleton = built.kind(config, **built.arguments)
        with quiet():
            model, info = built.kind.from_pretrained(
                base.folder,
                config=config,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=new_head,
                key_mapping=built.names,
                **built.arguments,
                **place,
                **(variant.load_arguments(kept(skeleton), stored_format(config)) | own | plain),
            )
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"the base model {base.id!r} can't be loaded as {auto.__name__}: {str(error) or repr(error)}"
        ) from error
    if plain:
        # When it is saved, transformers would name the weights as they were stored, though it stores others.
        model._weight_conversions = None
    return model, info


def _check_backbone(model: nn.Module, missing: set[str], base: Base) -> None:
    """Refuse a model of which the files contained nothing but perhaps a head: its backbone would be random.

    Some classes of transformers name their backbone differently from others of the same model, and find none of its
    weights.

    Raises:
        BaseModelError: names the class, and a weight that it looks for.
    """
    prefix = f"{model.base_model_prefix}."
    backbone = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
    if backbone and missing.issuperset(backbone):
        raise BaseModelError(
            f"the base model {base.id!r} has no weights that transformers' {type(model).__name__} finds: it looks "
            f"for {backbone[0]}",
            hint="Use a head of ours: task.head=auto.",
        )


def load_tokenizer(base: Base) -> Any:
    """The base's tokenizer, with a padding token.

    Raises:
        BaseModelError: there is none.
    """
    from transformers import AutoTokenizer

    if isinstance(base, Skeleton):
        return base.tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the base model {base.id!r} has no loadable tokenizer: {error}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BaseModelError(f"the tokenizer of {base.id!r} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def own_tokenizer(base: Base) -> Any:
    """As `load_tokenizer`; for a skeleton the real one, if its files are next to the configuration.

    Raises:
        BaseModelError: there is none.
    """
    if not isinstance(base, Skeleton):
        return load_tokenizer(base)
    try:
        return load_tokenizer(Base(base.id, base.folder, base.revision))
    except BaseModelError:
        return base.tokenizer()
