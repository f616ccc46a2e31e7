"""How rows of a task are answered along with those of others, in a pool and a server."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pefttools.errors import ConfigError
from pefttools.tasks.scoring import ConfigT
from pefttools.tasks.trained import TrainedTask
from pefttools.tasks.types import Batch, Example

if TYPE_CHECKING:
    import torch

    from pefttools.heads.served import ServedHead
    from pefttools.tasks.language.allowed import AllowedAnswers


class ServedTask(TrainedTask[ConfigT]):
    """The part of a task that reads rows of several adapters together, and says how each is answered."""

    #: whether a pool can answer for it
    servable: ClassVar[bool] = True
    #: whether answers are texts that the model generates, by the base's own language head
    generates: ClassVar[bool] = False
    #: whether those are written by a separate decoder, and do not continue what was read
    encoder_decoder: ClassVar[bool] = False

    def prompt_ids(self, row: Mapping[str, Any], processor: Any) -> list[int]:
        """Tokens that a row's answer is generated after, written as in training and never cut.

        Raises:
            ConfigError: the task generates nothing.
        """
        raise ConfigError(f"the task {self.name!r} generates no text")

    def allowed_answers(self, labels: Sequence[str]) -> Sequence[bool] | None:
        """Whether each label may be the answer of a row with one label; None: all may.

        Args:
            labels: label names.
        """
        return None

    def answer_ends(self, processor: Any) -> list[int]:
        """Tokens that end a generated answer."""
        return []

    def only_answers(self, processor: Any, ends: Collection[int]) -> AllowedAnswers | None:
        """What may be generated; None for anything.

        Args:
            processor: the base's.
            ends: tokens that end an answer.

        Raises:
            ConfigError: an answer is longer than the task generates.
        """
        return None

    def new_tokens(self, usual: int) -> int:
        """New tokens for a request that does not say how many: as many as usual, or as the allowed answers take."""
        return usual

    def served_head(
        self, kind: str, state: Mapping[str, torch.Tensor], labels: Sequence[str], like: torch.Tensor
    ) -> ServedHead | None:
        """How a pool answers with a head of ours; None if it can't.

        Args:
            kind: kind of the head, as `build` gave it.
            state: its weights.
            labels: label names.
            like: a parameter of the base, for device and number format.
        """
        return None

    def input_batch(self, examples: Sequence[Example], processor: Any) -> Batch:
        """What the model reads of encoded rows, padded on the right, without what is to be learned.

        A pool puts rows of several adapters into one batch, whose tasks read the same modality: one of them makes it.
        """
        from pefttools.tasks.text.padding import padded_texts

        return padded_texts(examples, processor)

    def processor_key(self) -> Hashable:
        """What the processor depends on besides the base: adapters whose tasks give the same key share one."""
        return None

    def batch_key(self, processor: Any) -> Hashable:
        """Rows whose tasks give the same key can be read in one batch, such as sounds that are padded to one length."""
        return None

    @property
    def generated_tokens(self) -> int:
        """Maximum number of tokens that are generated after a row; 0 if nothing is."""
        return 0
