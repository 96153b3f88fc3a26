"""Judges of frozen features: nearest neighbours and a linear classifier, both exact."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.base.errors import DataError

Kind = Literal["multiclass", "multilabel"]
"""One class per image, or independent labels, each of which may be missing."""


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
    steps: int
    """L-BFGS iterations that were used."""
    gradient: float
    """Largest gradient entry at the end; near 0 means converged."""

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
    max_steps: int = 1000,
    tolerance: float = 1e-7,
) -> LinearProbe:
    """Fit L2-regularised logistic regression to the optimum with L-BFGS in float64.

    Minimises mean cross entropy + l2 / 2 |weight|^2 (the bias is free). With standardise=False this
    is scikit-learn's LogisticRegression with C = 1 / (l2 N).

    Args:
        features: (N, D), any float type.
        targets: Multi-class: (N,) int64 in [0, classes). Multi-label: (N, L) in [0, 1], NaN where
            missing; each label has its own mean over the rows that know it.
        kind: "multiclass" or "multilabel" (a single binary label is a multi-label of one).
        l2: Weight of the penalty, >= 0; it acts on weights of standardised features.
        classes: Number of classes; None takes the largest target + 1.
        standardise: Scale features to mean 0 and standard deviation 1 before, and fold that into
            the result.
        max_steps: Most L-BFGS iterations.
        tolerance: Stop when no gradient entry is larger.

    Returns:
        The classifier for the features as they came.

    Raises:
        DataError: Features are not finite or there are no rows.
    """
    x = features.detach().to(torch.float64)
    if len(x) == 0 or not bool(torch.isfinite(x).all()):
        raise DataError(f"A probe needs rows of finite features, got shape {tuple(x.shape)}.")
    std, mean = torch.std_mean(x, dim=0, correction=0)
    if not standardise:
        std, mean = torch.ones_like(std), torch.zeros_like(mean)
    std = torch.where(std > 1e-12, std, torch.ones_like(std))  # a constant feature says nothing
    x = (x - mean) / std
    outputs = targets.shape[1] if kind == "multilabel" else classes or int(targets.max()) + 1
    weight = x.new_zeros(outputs, x.shape[1]).requires_grad_()
    bias = x.new_zeros(outputs).requires_grad_()
    steps, gradient = _minimise(x, targets, weight, bias, kind, l2, max_steps, tolerance)
    folded = weight.detach() / std
    return LinearProbe(folded, bias.detach() - folded @ mean, kind, steps, gradient)


def _minimise(
    x: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    kind: Kind,
    l2: float,
    max_steps: int,
    tolerance: float,
) -> tuple[int, float]:
    if kind == "multilabel":
        known = (~targets.isnan()).to(x.dtype)
        share = known / known.sum(dim=0).clamp_min(1.0)  # (N, L), each known label sums to 1
        goal = torch.nan_to_num(targets.to(x.dtype), nan=0.0)

    def objective() -> Tensor:
        logits = x @ weight.T + bias  # (N, L)
        if kind == "multiclass":
            loss = F.cross_entropy(logits, targets)
        else:
            each = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
            loss = (each * share).sum()  # labels are independent problems, so the sum is right
        return loss + 0.5 * l2 * weight.square().sum()

    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_steps,
        max_eval=2 * max_steps,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        closure()
    gradients = torch.cat([p.grad.flatten() for p in (weight, bias) if p.grad is not None])
    return int(optimizer.state[weight]["n_iter"]), float(gradients.abs().max())
