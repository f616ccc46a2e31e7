"""References of the files that commands read: a recipe, and the specs of several commands."""

from __future__ import annotations

from pydantic import BaseModel

from pefttools.eval.continual_learning.spec import ContinualSpec
from pefttools.eval.labelling.spec import LabellingSpec
from pefttools.eval.spec import BenchSpec
from pefttools.recipe import Recipe

from .fields import fields
from .text import page

#: path -> title, model, and what is said before the table
_FILES: dict[str, tuple[str, type[BaseModel], str]] = {
    "reference/recipe.md": (
        "The recipe",
        Recipe,
        "The YAML file that `pefttools train` reads. Every field can be set on the command line too: "
        "`--set training.epochs=5`. `pefttools schema` prints the same as a JSON schema, for editors. The options of "
        "[methods](../methods.md), [tasks](../tasks.md) and [objectives](../objectives.md) are on their own pages.",
    ),
    "reference/comparison.md": (
        "The spec of a comparison",
        BenchSpec,
        "The YAML file that `pefttools bench` reads; `pefttools schema bench` prints its JSON schema. "
        "`pefttools curve` reads the same file. See [how methods are compared](../comparisons.md).",
    ),
    "reference/continual.md": (
        "The spec of continual learning",
        ContinualSpec,
        "The YAML file that `pefttools continual` reads. See [continual learning](../continual.md).",
    ),
    "reference/labelling.md": (
        "The spec of labelling",
        LabellingSpec,
        "The YAML file that `pefttools label` reads. See [few labels](../few-labels.md).",
    ),
}


def file_pages() -> dict[str, str]:
    """Path -> page."""
    return {path: page(title, about, fields(model)) for path, (title, model, about) in _FILES.items()}
