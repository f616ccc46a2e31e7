"""Which rows of a pool are worth a label next.

References:
    Lewis, D. and Gale, W. (1994). A sequential algorithm for training text classifiers. SIGIR (uncertainty).
    Scheffer, T., Decomain, C. and Wrobel, S. (2001). Active hidden Markov models for information extraction. IDA
        (margin).
    Sener, O. and Savarese, S. (2018). Active learning for convolutional neural networks: a core-set approach. ICLR.
        https://arxiv.org/abs/1708.00489
    Ash, J. et al. (2020). Deep batch active learning by diverse, uncertain gradient lower bounds. ICLR.
        https://arxiv.org/abs/1906.03671
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """What a model says of the rows that have no label yet.

    Attributes:
        probabilities: of each label, ``[rows, labels]``.
        features: what the head's linear layer reads, ``[rows, hidden]``.
        labelled: the same of the rows that have a label, ``[labelled, hidden]``.
    """

    probabilities: Array
    features: Array
    labelled: Array


#: gives the indices of `count` rows of the pool, the most useful first
Choose = Callable[[Pool, int, np.random.Generator], Indices]


def at_random(pool: Pool, count: int, generator: np.random.Generator) -> Indices:
    """Any rows: what the others must beat."""
    return generator.permutation(len(pool.probabilities))[:count]


def by_entropy(pool: Pool, count: int, generator: np.random.Generator) -> Indices:
    """Rows whose probabilities are spread the most."""
    p = pool.probabilities
    entropy = -np.sum(p * np.log(np.clip(p, 1e-12, None)), axis=1)
    return np.argsort(-entropy, kind="stable")[:count]


def by_margin(pool: Pool, count: int, generator: np.random.Generator) -> Indices:
    """Rows whose two most likely labels are the nearest to each other."""
    two = np.sort(pool.probabilities, axis=1)[:, -2:]
    return np.argsort(two[:, 1] - two[:, 0], kind="stable")[:count]


def by_core_set(pool: Pool, count: int, generator: np.random.Generator) -> Indices:
    """Rows that are the farthest from all that are labelled or chosen, one by one (k-center greedy)."""
    far = np.full(len(pool.features), np.inf)
    for start in range(0, len(pool.labelled), 256):
        far = np.minimum(far, _squares(pool.features, pool.labelled[start : start + 256]).min(1))
    chosen: list[int] = []
    for _ in range(min(count, len(far))):
        best = int(np.argmax(far))
        chosen.append(best)
        far = np.minimum(far, _squares(pool.features, pool.features[best : best + 1])[:, 0])
        far[chosen] = -1.0
    return np.array(chosen, dtype=np.int64)


def by_badge(pool: Pool, count: int, generator: np.random.Generator) -> Indices:
    """Rows whose gradients of the head, for the label that is likeliest, are long and differ (BADGE).

    A gradient is the outer product of ``p - onehot(argmax p)`` and the features; only these two are kept.
    """
    errors = pool.probabilities.copy()
    errors[np.arange(len(errors)), errors.argmax(1)] -= 1.0
    lengths = (errors**2).sum(1) * (pool.features**2).sum(1)
    chosen = [int(np.argmax(lengths))]
    far = np.full(len(lengths), np.inf)
    while len(chosen) < min(count, len(lengths)):
        last = chosen[-1]
        product = (errors @ errors[last]) * (pool.features @ pool.features[last])
        far = np.minimum(far, np.clip(lengths + lengths[last] - 2 * product, 0.0, None))
        far[chosen] = 0.0
        total = far.sum()
        if total <= 0:  # all others are the same as one that was chosen
            rest = np.setdiff1d(np.arange(len(lengths)), chosen)
            chosen.append(int(generator.choice(rest)))
        else:
            chosen.append(int(generator.choice(len(far), p=far / total)))
    return np.array(chosen, dtype=np.int64)


STRATEGIES: dict[str, Choose] = {
    "random": at_random,
    "entropy": by_entropy,
    "margin": by_margin,
    "core-set": by_core_set,
    "badge": by_badge,
}


def _squares(rows: Array, others: Array) -> Array:
    """Squared distances, ``[rows, others]``."""
    products = rows @ others.T
    found: Array = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * products
    return np.clip(found, 0.0, None)
