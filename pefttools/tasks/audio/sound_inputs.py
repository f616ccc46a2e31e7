"""From samples to what a base hears: how sounds are cut and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from pefttools.bases.skeleton import Skeleton
from pefttools.errors import BaseModelError
from pefttools.tasks.audio.sound_encoder import takes_mask

if TYPE_CHECKING:
    import torch

    from pefttools.bases import Base
    from pefttools.data.sounds import Samples
    from pefttools.tasks.types import Batch

#: seconds that a frame of mel spectra stands for, if the feature extractor uses Kaldi's
_FRAME = 0.01
#: seconds of the shortest sound that gives a state, if the base's convolutions do not determine it
_SHORTEST = 0.05


@dataclass(frozen=True)
class SoundInputs:
    """Makes a batch of sounds, as transformers' feature extractor does for a base.

    Attributes:
        extractor: transformers' own.
        samples: samples that each sound is padded to, if the base must be given sounds of one length or hears the
            padding; None for the longest of the batch, with a mask.
        shortest: samples that a shorter sound is padded to, so that it has a state.
        positions: the base's positions that the samples take; None if it has no such positions.
    """

    extractor: Any
    samples: int | None
    shortest: int
    positions: int | None

    @property
    def rate(self) -> int:
        """Samples per second."""
        return int(self.extractor.sampling_rate)

    def __call__(self, sounds: Sequence[Samples]) -> Batch:
        """The base's main input, and a mask of what is not padding, if there is one.

        Args:
            sounds: samples of each, at `rate`.
        """
        import numpy as np

        padded = [np.pad(one, (0, max(0, self.shortest - len(one)))) for one in sounds]
        length = {"padding": True} if self.samples is None else {
            "padding": "max_length", "max_length": self.samples, "truncation": True,
        }  # fmt: skip
        found = self.extractor(
            padded, sampling_rate=self.rate, return_attention_mask=True, return_tensors="pt", **length
        )
        names = [name for name in (self.extractor.model_input_names[0], "attention_mask") if name in found]
        return {name: found[name].contiguous() for name in names}  # a mask of frames is cut out of one of samples

    def shapes(self, seconds: float) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one row and number format of each part of a batch whose longest sound is that long."""
        import numpy as np
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        silence = np.zeros(max(1, round(seconds * self.rate)), dtype=np.float32)
        with unset_fake_temporarily():  # a plan computes without values, a feature extractor only with them
            found = self([silence])
        return {name: (tuple(part.shape[1:]), part.dtype) for name, part in found.items()}


def sound_inputs(base: Base, seconds: float) -> SoundInputs:
    """What makes batches of sounds for a base.

    Args:
        base: the base; for a skeleton the configuration is enough.
        seconds: of the longest sound.

    Raises:
        BaseModelError: the base has no feature extractor.
    """
    config, extractor = _configuration(base), load_extractor(base)
    rate = extractor.sampling_rate
    samples = ceil(seconds * rate)
    if _has_positions(config):
        per_position = 2 * extractor.hop_length  # the second convolution takes every other frame
        positions = min(ceil(samples / per_position), config.max_source_positions)
        return SoundInputs(extractor, positions * per_position, 0, positions)
    shortest = _receptive_field(config) or ceil(_SHORTEST * rate)
    fixed = _hears_padding(config) or _takes_frames(config)
    return SoundInputs(extractor, max(samples, shortest) if fixed else None, shortest, None)


def seconds_taken(base: Base) -> float | None:
    """How long a sound a base can take; None if it sets no limit.

    Raises:
        BaseModelError: the base has no feature extractor.
    """
    config = _configuration(base)
    if _has_positions(config):
        extractor = load_extractor(base)
        return float(config.max_source_positions * 2 * extractor.hop_length / extractor.sampling_rate)
    return config.max_length * _FRAME if _takes_frames(config) else None


def load_extractor(base: Base) -> Any:
    """The base's feature extractor; for a skeleton without its file, the one that transformers makes for its type.

    Raises:
        BaseModelError: there is none.
    """
    from transformers import FEATURE_EXTRACTOR_MAPPING, AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(base.folder)
    except (OSError, ValueError, KeyError) as error:
        config = _configuration(base)
        if isinstance(base, Skeleton) and type(config) in FEATURE_EXTRACTOR_MAPPING:
            kind = FEATURE_EXTRACTOR_MAPPING[type(config)]
            return kind(feature_size=config.num_mel_bins) if _has_positions(config) else kind()
        raise BaseModelError(f"the base model {base.id!r} has no feature extractor of sounds: {error}") from error


def _hears_padding(config: Any) -> bool:
    """Whether what follows a sound changes its states, even if it is masked.

    A norm over the whole length does that, and so do several convolutions that give positions, one after the other.
    """
    several = hasattr(config, "conv_pos_kernel_size") or getattr(config, "conv_pos_batch_norm", False)
    return several or not takes_mask(config)


def _configuration(base: Base) -> Any:
    outline = base if isinstance(base, Skeleton) else Skeleton(base.id, base.folder, base.revision)
    return outline.configuration()


def _has_positions(config: Any) -> bool:
    """Whether sounds take positions of their own, as many as an encoder like Whisper's has."""
    return config.is_encoder_decoder and getattr(config, "max_source_positions", None) is not None


def _takes_frames(config: Any) -> bool:
    """Whether the base takes pictures of sounds, of one size, as AST does."""
    return getattr(config, "time_stride", None) is not None


def _receptive_field(config: Any) -> int:
    """Samples that the first state is made of; 0 if the base has no such convolutions."""
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if not isinstance(kernels, list | tuple) or not isinstance(strides, list | tuple):
        return 0
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return int(samples)
