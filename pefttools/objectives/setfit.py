"""Contrastive tuning with a logistic head, for few labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pefttools.objectives.features import check_one_vector, check_reads_one_vector
from pefttools.objectives.objective import Objective, ObjectiveConfig
from pefttools.objectives.supervised_contrastive import contrast

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pefttools.bases import BaseVariant
    from pefttools.methods import Method
    from pefttools.objectives.step import Step
    from pefttools.tasks import Task


class SetFitConfig(ObjectiveConfig):
    """Options of SetFit."""

    alpha: float = Field(
        0.5, gt=0, le=1, description="share of the contrastive loss; the task's loss has the rest, and 1 is SetFit"
    )
    temperature: float = Field(0.05, gt=0, description="what cosine similarities are divided by")
    c: float = Field(10.0, gt=0, description="inverse of the L2 penalty of the logistic regression")


class SetFit(Objective[SetFitConfig]):
    """``(1 - alpha) L + alpha C``; then a logistic regression is the head.

    ``C`` is the supervised contrastive loss of `supcon`: by what the head's linear layer reads, rows of a label are
    pulled together, and all others of the batch pushed apart. Rows of a label come in twos, and a batch should have
    many labels: 64 rows or more. Before each evaluation, and at the end, the head becomes scikit-learn's logistic
    regression of the training rows' features at length 1.

    The paper has no ``L``, minimises the squared error of the cosine for pairs of rows that it draws, and tunes the
    whole encoder. Here the method says what is tuned. On a base that was made for comparing sentences, cosines of
    exactly 0 between labels ask for more than they are worth, and the task's loss helps a little.

    References:
        Tunstall, L., Reimers, N., Jo, U. E. S., Bates, L., Korat, D., Wasserblat, M. and Pereg, O. (2022). Efficient
        few-shot learning without prompts. https://arxiv.org/abs/2209.11055
    """

    name = "setfit"
    summary = "few labels: rows of a label are pulled together, and a logistic regression is the head (after SetFit)"
    paper = "https://arxiv.org/abs/2209.11055"
    config = SetFitConfig
    reads_features = True
    keeps_graph = True
    replaces_loss = True
    pairs_rows = True
    fits_head = True

    def check(self, method: Method[Any], variant: BaseVariant, task: Task[Any]) -> None:
        super().check(method, variant, task)
        check_reads_one_vector(self.name, task)

    def term(self, step: Step) -> torch.Tensor:
        plain = step.plain()
        features = check_one_vector(f"the objective {self.name!r}", plain.features)
        contrastive = contrast(features, step.labels, self.options.temperature) / step.model.passes
        # Also if alpha is 1: the head's parameters get a gradient, as all that is trained must.
        return (1 - self.options.alpha) * plain.loss + self.options.alpha * contrastive

    def fit_head(self, layer: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
        import torch
        from sklearn.linear_model import LogisticRegression

        lengths = features.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        found = LogisticRegression(C=self.options.c, max_iter=1000).fit((features / lengths).numpy(), labels.numpy())
        coefficients, intercepts = torch.tensor(found.coef_), torch.tensor(found.intercept_)
        if len(found.classes_) == 2:  # scikit-learn has one row of coefficients then, for the second
            coefficients, intercepts = (torch.cat([-one, one]) / 2 for one in (coefficients, intercepts))
        rows = torch.tensor(found.classes_)
        # The layer reads features as they are, which are of nearly one length.
        weight = torch.zeros(layer.weight.shape, dtype=coefficients.dtype)
        weight[rows] = coefficients / float(lengths.mean())
        # A label without a row is never the answer.
        bias = torch.full((len(weight),), float(intercepts.min()) - 100.0, dtype=coefficients.dtype)
        bias[rows] = intercepts
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
