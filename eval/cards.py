"""Which graphics card each of the runs that go on at the same time gets."""

from __future__ import annotations

import os

from pefttools.errors import ConfigError

#: environment of a worker: how many runs go on at the same time, and whether its card is others' too
JOBS, SHARED = "PEFTTOOLS_BENCH_JOBS", "PEFTTOOLS_BENCH_CARD_SHARED"


def visible_cards() -> list[str]:
    """The cards that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if given is None else [one.strip() for one in given.split(",")]
    return names[:count]


class Cards:
    """Deals cards to workers: each its own, as long as there are enough.

    Args:
        names: of the cards; none: a machine without.
        jobs: workers at the same time.
        share: let several workers have one card.

    Raises:
        ConfigError: more workers than cards that are not to be shared.
    """

    def __init__(self, names: list[str], jobs: int, *, share: bool) -> None:
        if names and jobs > len(names) and not share:
            raise ConfigError(
                f"--jobs {jobs}: there {'is one card' if len(names) == 1 else f'are {len(names)} cards'}, and runs "
                "that share one take each other's memory and time",
                hint=f"Give --jobs {len(names)}, or --share-cards.",
            )
        self._jobs = jobs
        self._users = dict.fromkeys(names, 0)

    def take(self) -> str | None:
        """The card that fewest workers have; None on a machine without."""
        if not self._users:
            return None
        card = min(self._users, key=self._users.__getitem__)
        self._users[card] += 1
        return card

    def give(self, card: str | None) -> None:
        """A worker has ended."""
        if card is not None:
            self._users[card] -= 1

    def environment(self, card: str | None) -> dict[str, str]:
        """What a worker with this card is told."""
        told = {JOBS: str(self._jobs)}
        if card is not None:
            told["CUDA_VISIBLE_DEVICES"] = card
            told[SHARED] = str(int(self._jobs > len(self._users)))
        return told


def told() -> dict[str, int | bool | str | None]:
    """What a worker was told, for its record: ``jobs``, ``card`` and ``card_shared``."""
    jobs = os.environ.get(JOBS)
    if jobs is None:
        return {}
    shared = os.environ.get(SHARED)
    card = None if shared is None else os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"jobs": int(jobs), "card": card, "card_shared": shared == "1"}
