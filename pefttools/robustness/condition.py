"""A condition under which a trained model is measured: typos, an attack, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pefttools.data import Table
from pefttools.errors import ConfigError
from pefttools.objectives import Objective, objectives
from pefttools.recipe import Choice, choose_objectives
from pefttools.robustness.typos import Misspelt, misspell_rows
from pefttools.tasks import Task
from pefttools.tasks.evaluation import Evaluation
from pefttools.tasks.types import Example, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pefttools.tuned import TunedModel

#: options of an objective that say what its term counts in training, and nothing about the attack
_OF_TRAINING = ("weight",)


class Condition(BaseModel):
    """What is done to labelled rows before a trained model answers them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, min_length=1, description="heading in the report; none: what is done")
    typos: float | None = Field(
        None, gt=0, le=1, description="share of the words of four letters or more that get a typo"
    )
    attack: Choice | None = Field(
        None,
        description="what moves each row's input against its own label: fgm, pgd, or a mapping with name and options; "
        "see `pefttools objectives`",
    )
    seed: int = Field(0, description="which words get which typos")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.typos is None and self.attack is None:
            raise ValueError("give typos, an attack, or both")
        if self.typos is None and "seed" in self.model_fields_set:
            raise ValueError("seed says which words get typos, and there are to be none")
        return self

    @property
    def title(self) -> str:
        """Its name, or what is done, in a few words."""
        if self.name is not None:
            return self.name
        parts = (
            []
            if self.typos is None
            else [f"typos in {100 * self.typos:g} % of words" + (f" (seed {self.seed})" if self.seed else "")]
        )
        if self.attack is not None:
            settings = self.settings()["attack"]
            name, options = settings.pop("name"), {key: one for key, one in settings.items() if one is not None}
            parts.append(f"{name} ({', '.join(f'{key} {one}' for key, one in options.items())})" if options else name)
        return " and ".join(parts)

    def settings(self) -> dict[str, Any]:
        """All that determines what is done, with defaults filled in."""
        found: dict[str, Any] = {} if self.typos is None else {"typos": self.typos, "seed": self.seed}
        if (attack := self.chosen_attack()) is not None:
            options = attack.options.model_dump(mode="json", exclude=set(_OF_TRAINING))
            found["attack"] = {"name": attack.name, **options}
        return found

    def chosen_attack(self) -> Objective[Any] | None:
        """The attack with its validated options; None if there is none.

        Raises:
            UnknownNameError: no such objective.
            ConfigError: it does not attack, or has no such option.
        """
        if self.attack is None:
            return None
        (found,) = choose_objectives(self.attack, "attack")
        if not found.attacks:
            known = [name for name in objectives if objectives.get(name).attacks]
            raise ConfigError(
                f"the objective {found.name!r} is not an attack on single rows", hint=f"Known: {', '.join(known)}."
            )
        if isinstance(self.attack, dict) and (idle := sorted(set(_OF_TRAINING) & self.attack.keys())):
            raise ConfigError(f"attack.{idle[0]} counts in training only, and has no effect on a trained model")
        return found

    def check(self, task: Task[Any], table: Table) -> None:
        """Refuse what can't be measured under it, before anything is loaded.

        Args:
            task: that is measured.
            table: the rows.

        Raises:
            ConfigError: the task can't be attacked, or reads no words that may be changed.
        """
        if (attack := self.chosen_attack()) is not None:
            attack.check_task(task)
            if task.why_not_attacked is not None:
                raise ConfigError(f"the task {task.name!r} can't be measured under an attack: {task.why_not_attacked}")
        if self.typos is not None and not task.misspellable() & table.columns.keys():
            where = ", ".join(sorted(task.misspellable()))
            raise ConfigError(
                f"there is no text that typos can be put in: the task {task.name!r} takes them in {where}"
                if where
                else f"the task {task.name!r} reads no words that can be changed without changing what is right"
            )

    def misspelt(self, table: Table, task: Task[Any]) -> Misspelt | None:
        """The rows with typos; None if there are to be none.

        Args:
            table: rows as they were read, before passages are looked up for them.
            task: that is measured.
        """
        if self.typos is None:
            return None
        return misspell_rows(table, task.misspellable() & table.columns.keys(), self.typos, self.seed)

    def evaluate(
        self, model: TunedModel, examples: Sequence[Example], *, batch_size: int, progress: Progress | None = None
    ) -> Evaluation:
        """Metrics and predictions on labelled examples, under the attack if there is one.

        Args:
            model: the trained model.
            examples: as `Task.encode` gives them, of rows that `misspelt` gave.
            batch_size: examples at a time.
            progress: called with the number of examples done and in total.
        """
        attack = self.chosen_attack()
        if attack is None:
            return model.task.evaluate(model, examples, batch_size=batch_size, progress=progress)
        from pefttools.robustness.attacked import AttackedModel

        attacked = AttackedModel(model, attack)
        return model.task.evaluate(attacked, examples, batch_size=batch_size, progress=progress)
