"""Which GPU each of several concurrent runs gets."""

from __future__ import annotations

import os

from pefttools.errors import ConfigError

#: environment of a worker: how many runs there are at the same time, and whether its GPU is shared
JOBS, SHARED = "PEFTTOOLS_BENCH_JOBS", "PEFTTOOLS_BENCH_CARD_SHARED"


def visible_cards() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if given is None else [one.strip() for one in given.split(",")]
    return names[:count]


class Cards:
    """Assigns GPUs to workers: each its own, as long as there are enough.

    Args:
        names: of the GPUs; empty on a machine without one.
        jobs: number of concurrent workers.
        share: let several workers use the same GPU.

    Raises:
        ConfigError: more workers than GPUs, without sharing.
    """

    def __init__(self, names: list[str], jobs: int, *, share: bool) -> None:
        if names and jobs > len(names) and not share:
            raise ConfigError(
                f"--jobs {jobs}: there {'is one GPU' if len(names) == 1 else f'are {len(names)} GPUs'}, and runs "
                "that share one take each other's memory and time",
                hint=f"Use --jobs {len(names)}, or --share-cards.",
            )
        self._jobs = jobs
        self._users = dict.fromkeys(names, 0)

    def take(self) -> str | None:
        """The GPU that the fewest workers use; None on a machine without one."""
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
        """The environment variables of a worker with this GPU."""
        variables = {JOBS: str(self._jobs)}
        if card is not None:
            variables["CUDA_VISIBLE_DEVICES"] = card
            variables[SHARED] = str(int(self._jobs > len(self._users)))
        return variables


def card_facts() -> dict[str, int | bool | str | None]:
    """The assignment of this worker, for its record: ``jobs``, ``card`` and ``card_shared``."""
    jobs = os.environ.get(JOBS)
    if jobs is None:
        return {}
    shared = os.environ.get(SHARED)
    card = None if shared is None else os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"jobs": int(jobs), "card": card, "card_shared": shared == "1"}
