"""Batches of similar length without an order bias."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pefttools.training.sampler import LengthWindowSampler


@given(st.lists(st.integers(1, 200), max_size=400), st.integers(1, 40), st.integers(0, 5), st.integers(1, 9))
def test_every_example_comes_once(lengths: list[int], batch_size: int, seed: int, window: int) -> None:
    order = list(LengthWindowSampler(lengths, batch_size, seed, window))
    assert sorted(order) == list(range(len(lengths)))


def test_epochs_differ_and_repeat() -> None:
    sampler = LengthWindowSampler(list(range(100)), 8, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first


def _padding(lengths: list[int], order: list[int], batch_size: int) -> float:
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths) / padded


def test_padding_nearly_vanishes() -> None:
    import random

    generator = random.Random(0)
    lengths = [generator.randint(5, 80) for _ in range(3200)]
    plain = _padding(lengths, list(range(3200)), 32)
    ours = _padding(lengths, list(LengthWindowSampler(lengths, 32, 0)), 32)
    assert plain > 0.4
    assert ours < 0.05


def test_order_of_batches_follows_no_length() -> None:
    lengths = [10] * 500 + [70] * 500
    order = list(LengthWindowSampler(lengths, 10, 0))
    means = [sum(lengths[i] for i in order[s : s + 10]) / 10 for s in range(0, 1000, 10)]
    half = sum(means[:50]) / 50
    assert 30 < half < 50  # long and short ones are mixed over the epoch
