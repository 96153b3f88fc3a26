"""Judges of frozen features: nearest neighbours and a linear classifier, both exact."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scoutview.base.errors import DataError

Kind = Literal["multiclass", "multilabel"]
"""One class per image, or independent labels, each of which may be missing."""

Array = NDArray[np.float64]

NEWTON_SIZE: Final = 1024
"""Up to this many unknowns Newton's method is used; beyond, its Hessian costs more than L-BFGS."""


@torch.no_grad()
def knn_votes(
    train: Tensor,
    train_targets: Tensor,
    test: Tensor,
    *,
    k: int,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Let the nearest training images vote, weighted by exp(similarity / temperature).

    Args:
        train: Training features, (M, D); normalise them for cosine similarity.
        train_targets: Votes of each training image, (M, L): one-hot classes, labels in [0, 1], NaN
            where a label is missing (such an image casts no vote on that label).
        test: Test features, (N, D).
        k: Neighbours that vote, >= 1; at most M are used.
        temperature: Sharpness of the weights, > 0; sigma in the source.
        chunk: Test rows per matrix product.

    Returns:
        Sum of the weighted votes, (N, L).

    Source: Wu et al., 2018, arXiv:1805.01978, section 3.4; zhirongw/lemniscate.pytorch, test.py.
    """
    known = torch.nan_to_num(train_targets.to(train.dtype), nan=0.0)  # (M, L)
    out = [
        torch.einsum("nk,nkl->nl", weights, known[nearest])
        for weights, nearest in _neighbours(train, test, k, temperature, chunk)
    ]
    return torch.cat(out)


@torch.no_grad()
def knn_scores(
    train: Tensor,
    train_targets: Tensor,
    test: Tensor,
    *,
    k: int,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Turn the neighbours' votes into probabilities.

    Args:
        train: Training features, (M, D), not necessarily normalised.
        train_targets: One-hot classes or labels, NaN where missing, (M, L).
        test: Test features, (N, D).
        k: Neighbours that vote.
        temperature: Sharpness of the weights, > 0.
        chunk: Test rows per matrix product.

    Returns:
        Share of the votes for each label, (N, L); the label's mean where no neighbour knows it.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    targets = train_targets.to(train.dtype)
    has = (~targets.isnan()).to(train.dtype)  # (M, L)
    both = torch.cat([torch.nan_to_num(targets, nan=0.0), has], dim=1)  # (M, 2L)
    votes = knn_votes(train, both, test, k=k, temperature=temperature, chunk=chunk)
    yes, heard = votes.chunk(2, dim=1)  # (N, L) each
    return torch.where(heard > 0, yes / heard, torch.nanmean(targets, dim=0))


def _neighbours(
    train: Tensor, test: Tensor, k: int, temperature: float, chunk: int
) -> list[tuple[Tensor, Tensor]]:
    """Find weights (n, k) and rows (n, k) of the nearest training images, chunk by chunk."""
    found = []
    for start in range(0, len(test), chunk):
        part = test[start : start + chunk]
        similarity, nearest = (part @ train.T).topk(min(k, len(train)), dim=1)
        found.append(((similarity / temperature).exp(), nearest))
    return found


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on features."""

    weight: Tensor
    """(L, D) float64."""
    bias: Tensor
    """(L,) float64."""
    kind: Kind
    """How logits become probabilities."""

    def logits(self, features: Tensor) -> Tensor:
        """Score features (N, D) to (N, L)."""
        return features.to(self.weight) @ self.weight.T + self.bias

    def probabilities(self, features: Tensor) -> Tensor:
        """Turn features (N, D) into probabilities (N, L): softmax or one sigmoid per label."""
        logits = self.logits(features)
        return logits.softmax(dim=1) if self.kind == "multiclass" else logits.sigmoid()


def fit_linear_probe(
    features: Tensor,
    targets: Tensor,
    *,
    kind: Kind,
    l2: float,
    classes: int | None = None,
    standardise: bool = True,
) -> LinearProbe:
    """Fit L2-regularised logistic regression to its optimum, in float64 (scikit-learn).

    Minimises mean cross entropy + l2 / 2 |weight|^2 (the bias is free), which is scikit-learn's
    LogisticRegression with C = 1 / (l2 N).

    Args:
        features: (N, D), any float type.
        targets: Multi-class: (N,) int64 in [0, classes). Multi-label: (N, L) of 0, 1, and NaN where
            missing; each label is fitted on the rows that know it.
        kind: "multiclass" or "multilabel" (a single binary label is a multi-label of one).
        l2: Weight of the penalty, > 0; it acts on weights of standardised features.
        classes: Number of classes; None takes the largest target + 1.
        standardise: Scale features to mean 0 and standard deviation 1 before, and fold that into
            the result.

    Returns:
        The classifier for the features as they came. A class or label that the rows show only one
        way is given its constant answer.

    Raises:
        DataError: Features are not finite or there are no rows.
    """
    x = features.detach().cpu().to(torch.float64).numpy()
    if len(x) == 0 or not np.isfinite(x).all():
        raise DataError(f"A probe needs rows of finite features, got shape {x.shape}.")
    mean, std = (x.mean(axis=0), x.std(axis=0)) if standardise else (0.0, 1.0)
    std = np.where(
        np.broadcast_to(std, x.shape[1:]) > 1e-12, std, 1.0
    )  # a constant feature says nothing
    x = (x - mean) / std
    y = targets.detach().cpu().numpy()
    if kind == "multiclass":
        weight, bias = _fit_classes(x, y, l2, classes or int(y.max()) + 1)
    else:
        fitted = [_fit_label(x, column, l2) for column in y.T]
        weight = np.stack([w for w, _ in fitted])  # (L, D)
        bias = np.array([b for _, b in fitted])
    weight = weight / std
    return LinearProbe(
        torch.from_numpy(weight),
        torch.from_numpy(bias - weight @ np.broadcast_to(mean, std.shape)),
        kind,
    )


CERTAIN: Final = 20.0
"""Logit of an answer that never varied: a probability of 1 - 2e-9."""


def _fit_label(x: Array, y: Array, l2: float) -> tuple[Array, float]:
    known = ~np.isnan(y)
    values = np.unique(y[known])
    if len(values) < 2:
        only = float(values[0]) if len(values) else 0.5
        return np.zeros(x.shape[1]), CERTAIN * (2 * only - 1)
    model = _solve(x[known], y[known].astype(np.int64), l2)
    return model.coef_[0], float(model.intercept_[0])


def _fit_classes(x: Array, y: Array, l2: float, classes: int) -> tuple[Array, Array]:
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -CERTAIN)
    seen = np.unique(y)
    bias[seen] = 0.0
    if len(seen) < 2:
        return weight, bias
    model = _solve(x, y, l2)
    if len(seen) == 2:  # scikit-learn gives the difference of two; softmax wants both
        sides = np.array([[-0.5], [0.5]])
        weight[seen], bias[seen] = sides * model.coef_, (sides * model.intercept_)[:, 0]
    else:
        weight[seen], bias[seen] = model.coef_, model.intercept_
    return weight, bias


def _solve(x: Array, y: Array, l2: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # 1.3 s that the first step need not wait

    outputs = len(np.unique(y))
    unknowns = x.shape[1] * (1 if outputs == 2 else outputs)
    solver = "newton-cholesky" if unknowns <= NEWTON_SIZE else "lbfgs"
    model = LogisticRegression(C=1.0 / (l2 * len(x)), solver=solver, tol=1e-7, max_iter=5000)
    return model.fit(x, y)
