"""Simple classifiers on fixed numbers (features, raw pixels); strength chosen on validation."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from scoutview.base.config import Config
from scoutview.base.errors import DataError
from scoutview.nn.probe_solvers import fit_linear_probe
from scoutview.stats.ranking import auc
from scoutview.tasks.targets import Targets

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Features = NDArray[np.float32]


class LinearProbe(Config):
    """Logistic regression on cached features of the frozen backbone, solved to the optimum."""

    kind: Literal["linear_probe"] = "linear_probe"
    """Name of the mode."""
    l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Weights of the penalty to choose from on validation; features are standardised."""


class LogisticRegression(Config):
    """Logistic regression on raw pixels of the evaluation view: what no backbone gives."""

    kind: Literal["logistic_regression"] = "logistic_regression"
    """Name of the mode."""
    l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Weights of the penalty to choose from on validation; pixels are standardised."""


class RandomForest(Config):
    """Random forest on raw pixels of the evaluation view."""

    kind: Literal["random_forest"] = "random_forest"
    """Name of the mode."""
    trees: int = Field(default=500, ge=1)
    """Number of trees."""
    min_leaf: tuple[int, ...] = (1, 3, 10)
    """Fewest images in a leaf, to choose from on validation."""


@dataclass(frozen=True)
class Probed:
    """A fitted classifier."""

    predict: Callable[[Features], Floats]
    """Features (N, D) to probabilities (N, L)."""
    setting: float
    """The chosen strength: penalty, or fewest images in a leaf."""
    validation_auc: float
    """Macro AUC on validation of the chosen setting."""
    notes: tuple[str, ...] = ()


def macro_auc(targets: Targets, probabilities: Floats) -> float:
    """Mean AUC over the labels that have both classes; NaN if none has."""
    areas = [auc(targets.values[:, k], probabilities[:, k]) for k in range(len(targets.columns))]
    usable = [area for area in areas if not math.isnan(area)]
    return float(np.mean(usable)) if usable else math.nan


def fit_linear(
    l2: tuple[float, ...],
    train: tuple[Features, Targets],
    validation: tuple[Features, Targets],
) -> Probed:
    """Fit logistic regressions and keep the one with the largest validation AUC.

    Args:
        l2: Penalties to try.
        train: Features (N, D) and targets.
        validation: Features (M, D) and targets.

    Returns:
        The best; of equals the one with the larger penalty.

    Raises:
        DataError: No label has both classes in validation and there is more than one penalty.
    """
    features, targets = torch.from_numpy(train[0]), train[1]

    def fit(strength: float) -> Callable[[Features], Floats]:
        if targets.exclusive:
            solved = fit_linear_probe(
                features[targets.known],
                torch.from_numpy(targets.classes[targets.known]),
                kind="multiclass",
                l2=strength,
                classes=len(targets.columns),
            )
        else:
            solved = fit_linear_probe(
                features, torch.from_numpy(targets.values), kind="multilabel", l2=strength
            )
        return lambda x: solved.probabilities(torch.from_numpy(x)).numpy()

    return _best(sorted(l2, reverse=True), fit, targets, validation)


def fit_forest(
    config: RandomForest,
    train: tuple[Features, Targets],
    validation: tuple[Features, Targets],
    *,
    seed: int,
) -> Probed:
    """Fit random forests and keep the one with the largest validation AUC; see `fit_linear`."""
    from sklearn.ensemble import RandomForestClassifier

    x, targets = train

    def forest(y: Floats, leaf: float) -> Any:
        model = RandomForestClassifier(
            config.trees, min_samples_leaf=int(leaf), random_state=seed, n_jobs=1
        )
        known = ~np.isnan(y)
        return model.fit(x[known], y[known].astype(np.int64))

    def fit(leaf: float) -> Callable[[Features], Floats]:
        if targets.exclusive:
            one = forest(np.where(targets.known, targets.classes, np.nan), leaf)
            return lambda new: _spread(one, new, len(targets.columns))
        models = [forest(column, leaf) for column in targets.values.T]
        return lambda new: np.column_stack([_spread(m, new, 2)[:, 1] for m in models])

    return _best(sorted(map(float, config.min_leaf), reverse=True), fit, targets, validation)


def _spread(model: Any, x: Features, classes: int) -> Floats:
    """Place a forest's probabilities, (N, classes); a class it never saw gets 0."""
    out = np.zeros((len(x), classes))
    out[:, model.classes_.astype(int)] = model.predict_proba(x)
    return out


def _best(
    settings: list[float],
    fit: Callable[[float], Callable[[Features], Floats]],
    targets: Targets,
    validation: tuple[Features, Targets],
) -> Probed:
    best: Probed | None = None
    for setting in settings:
        predict = fit(setting)
        score = macro_auc(validation[1], predict(validation[0]))
        if math.isnan(score) and len(settings) > 1:
            raise DataError(
                "No label has both classes in validation, so it cannot choose a penalty; give one"
                " setting only, or make the validation part larger."
            )
        if best is None or score > best.validation_auc:
            best = Probed(predict, setting, score)
    assert best is not None
    return Probed(best.predict, best.setting, best.validation_auc, missing_classes(targets))


def missing_classes(targets: Targets) -> tuple[str, ...]:
    """Say which outputs have one class only among the training images."""
    lacking = [
        name
        for name, column in zip(targets.columns, targets.values.T, strict=True)
        if not ((column == 1).any() and (column == 0).any())
    ]
    if not lacking:
        return ()
    return (f"The training subset has one class only of: {', '.join(lacking)}.",)
