"""Supervised contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.objectives.features import check_one_vector, check_reads_one_vector
from pefttools.objectives.objective import Objective, WeightedConfig

if TYPE_CHECKING:
    import torch

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task


class SupConConfig(WeightedConfig):
    """Options of the supervised contrastive loss."""

    temperature: float = Field(0.3, gt=0, description="what cosine similarities are divided by")


class SupervisedContrastive(Objective[SupConConfig]):
    """``L + weight * mean_i mean_{p in P(i)} -log softmax_{j != i}(z_i z_j / temperature)_p``.

    ``z`` is what the head's linear layer reads of a row, at length 1; ``P(i)`` are the other rows of the batch with the
    label of row ``i``. Rows of a label come in twos, so that a batch has such pairs; rows without another one are left
    out. If a batch is computed in parts, each part is on its own.

    References:
        Khosla, P., Teterwak, P., Wang, C., Sarna, A., Tian, Y., Isola, P., Maschinot, A., Liu, C. and Krishnan, D.
        (2020). Supervised contrastive learning. NeurIPS. https://arxiv.org/abs/2004.11362
        Gunel, B., Du, J., Conneau, A. and Stoyanov, V. (2021). Supervised contrastive learning for pre-trained language
        model fine-tuning. ICLR. https://arxiv.org/abs/2011.01403
    """

    name = "supcon"
    summary = "rows of one label are to be near to each other (supervised contrastive loss)"
    paper = "https://arxiv.org/abs/2011.01403"
    config = SupConConfig
    reads_features = True
    keeps_graph = True
    pairs_rows = True

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        check_reads_one_vector(self.name, task)

    def term(self, step: Step) -> torch.Tensor:
        features = check_one_vector(f"the objective {self.name!r}", step.plain().features)
        return self.options.weight * contrast(features, step.labels, self.options.temperature) / step.model.passes


def contrast(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """The supervised contrastive loss of some rows: a scalar.

    Args:
        features: a vector per row, ``[rows, hidden]``.
        labels: of the rows, ``[rows]``.
        temperature: what cosine similarities are divided by.
    """
    import torch
    from torch.nn.functional import normalize

    vectors = normalize(features.float(), dim=-1)
    alone = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    similar = (vectors @ vectors.T / temperature).masked_fill(alone, float("-inf"))
    same = (labels[:, None] == labels) & ~alone
    nearness = similar.log_softmax(-1).masked_fill(alone, 0.0)
    counts = same.sum(-1)
    each = -(nearness * same).sum(-1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)
