"""A router that chooses the adapter of a row, learned from the base's own features.

References:
    Hayes, T. and Kanan, C. (2020). Lifelong machine learning with deep streaming linear discriminant analysis. CVPR
    workshops. https://arxiv.org/abs/1909.01520
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pefttools.api import wrap
from pefttools.artifact.load import load_artifact
from pefttools.data import Table
from pefttools.objectives.features import check_one_vector
from pefttools.tasks.task import Evaluation, Prediction
from pefttools.training.head import features_of, head_layer
from pefttools.training.selection import choose_selection
from pefttools.tuned import TunedModel

from .evaluating import evaluated, rows_of, task_choice
from .plan import Study

Features = NDArray[np.float32]


def features(model: TunedModel, table: Table, batch_size: int) -> Features:
    """What the head's linear layer reads of each row, ``[rows, hidden]``.

    Raises:
        ConfigError: it reads each token.
    """
    examples = model.spec.task.encode(table, model.processor, model.labels, labelled=False)
    found = features_of(model, head_layer(model), examples, batch_size)
    return np.asarray(check_one_vector("a router", found).numpy())


class Router:
    """Chooses the stage of a row: that of the class whose mean is nearest, in the metric of the common covariance.

    Args:
        rows: features of each stage's training rows.
        classes: their classes.
    """

    def __init__(self, rows: Sequence[tuple[int, Features]], classes: Sequence[Sequence[Hashable]]) -> None:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        names: dict[tuple[int, Hashable], int] = {}
        targets = [
            names.setdefault((stage, name), len(names))
            for (stage, _), own in zip(rows, classes, strict=True)
            for name in own
        ]
        self._stages = np.array([stage for stage, _ in names])
        self._model = LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage="auto", priors=np.full(len(names), 1 / len(names))
        )
        self._model.fit(np.concatenate([own for _, own in rows]), targets)

    def choose(self, rows: Features) -> list[int]:
        """The number of the stage of each row."""
        return [int(stage) for stage in self._stages[self._model.predict(rows)]]


def routed_scores(study: Study, artifacts: Sequence[Path], seed: int) -> dict[str, Any]:
    """Scores of rows that are answered by the adapter which a router chooses for them.

    Args:
        study: the study.
        artifacts: one adapter per stage.
        seed: of the untrained model whose features are read; they do not depend on it.

    Returns:
        Stages that were learned, as text such as ``0.3``, in ascending order -> score of each of them by its number.
    """
    spec, task, count = study.spec, study.task, len(study.stages)
    metric = choose_selection(spec.selection, task).metric
    size = spec.training.eval_batch_size
    tests, trains = ([rows_of(study, number, split) for number in range(count)] for split in ("test", "train"))
    plain = wrap(spec.base, "head", task=task_choice(study), labels=study.labels, variant=spec.variant, seed=seed)
    of_train = [features(plain, table, size) for table in trains]
    of_test = [features(plain, table, size) for table in tests]
    del plain
    by_class = task.one_label and spec.scenario != "domain-incremental"
    classes: list[list[Hashable]] = [[task.strata(row) if by_class else None for row in table.rows] for table in trains]
    predicted, references, measured = [], [], None
    for number, artifact in enumerate(artifacts):
        model = load_artifact(artifact)
        own = [evaluated(study, model, table, study.answers([number], number)) for table in tests]
        measured = own[0].measured
        predicted.append([one.predictions for one in own])
        references = [one.references for one in own]
    assert measured is not None
    found: dict[str, Any] = {}
    for learned in sorted({tuple(sorted(order[:k])) for order in spec.sequences() for k in range(1, count + 1)}):
        scores = {}
        router = (
            Router([(n, of_train[n]) for n in learned], [classes[n] for n in learned]) if len(learned) > 1 else None
        )
        for number in learned:
            chosen = router.choose(of_test[number]) if router else [learned[0]] * len(tests[number])
            rows: list[Prediction] = [predicted[stage][number][row] for row, stage in enumerate(chosen)]
            scores[str(number)] = Evaluation.of(measured, rows, references[number]).metrics[metric]
        found[".".join(map(str, learned))] = scores
    return found
