"""The contrastive loss of a batch: each text should be nearer to its own positive than to those of others.

References:
    Oord, A. van den, Li, Y. and Vinyals, O. (2018). Representation learning with contrastive predictive coding.
    Khosla, P. et al. (2020). Supervised contrastive learning. NeurIPS 33.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pefttools.tasks.types import IGNORE

if TYPE_CHECKING:
    import torch

#: what a candidate is to an anchor, if not IGNORE
WRONG, RIGHT = 0, 1
#: in place of the logarithm of 0; far below any similarity at any temperature
_NONE = -1e9


def of_pairs(texts: Sequence[str], positives: Sequence[str], negatives: Sequence[str]) -> torch.Tensor:
    """What each candidate is to each text: its own positive, another's, or ignored if it is right too.

    Args:
        texts: of the batch.
        positives: one for each.
        negatives: of all of them.

    Returns:
        ``[texts, positives + negatives]``.
    """
    import numpy as np
    import torch

    candidates = [*positives, *negatives]
    codes: dict[str, int] = {}
    numbers = np.array([codes.setdefault(one, len(codes)) for one in candidates])
    right: dict[str, set[int]] = {}
    for text, positive in zip(texts, positives, strict=True):
        right.setdefault(text, {codes.get(text, -1)}).add(codes[positive])
    found = np.full((len(texts), len(candidates)), WRONG)
    for row, text in enumerate(texts):
        found[row, np.isin(numbers, list(right[text]))] = IGNORE
        found[row, row] = RIGHT
    return torch.from_numpy(found)


def of_labels(texts: Sequence[str], labels: Sequence[str]) -> torch.Tensor:
    """What each text is to every other: right if the labels are equal, ignored if it is the same text.

    Returns:
        ``[texts, texts]``.
    """
    import numpy as np
    import torch

    same_text, same_label = (np.array(values)[:, None] == np.array(values)[None, :] for values in (texts, labels))
    return torch.from_numpy(np.where(same_text, IGNORE, np.where(same_label, RIGHT, WRONG)))


def contrast(scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """InfoNCE: minus the logarithm of a right candidate's share, against all wrong ones.

    The mean over the rows of the mean over a row's right candidates; a row without one does not count.

    Args:
        scores: ``[rows, candidates]``, divided by the temperature.
        candidates: what each is, of the same shape.
    """
    import torch
    from torch.nn.functional import softplus

    right = candidates == RIGHT
    wrong = torch.logsumexp(scores.masked_fill(candidates != WRONG, _NONE), dim=1, keepdim=True)
    losses = torch.where(right, softplus(wrong - scores), 0.0)
    counts = right.sum(1)
    rows = losses.sum(1) / counts.clamp(min=1)
    return rows.sum() / (counts > 0).sum().clamp(min=1)
