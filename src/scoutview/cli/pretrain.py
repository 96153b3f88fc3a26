"""`scoutview pretrain`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from scoutview.base.errors import ConfigError
from scoutview.cli.terminal import note, require_alone, settings


def pretrain(
    cohort: Path | None = None,
    *,
    method: str | None = None,
    out: Path | None = None,
    backbone: str | None = None,
    samples: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    where: str | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    precision: str | None = None,
    hybrid_alpha: float | None = None,
    hybrid_beta: float | None = None,
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter("--set")] = (),
    method_config: Path | None = None,
    method_set: tuple[str, ...] = (),
    resume: Path | None = None,
) -> None:
    """Train a backbone on images. Stop it with Ctrl-C; --resume goes on bit by bit the same.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    method
        Name of a method, as simclr, swav, dino or supervised; a wrong one lists all.
    out
        New folder of the run.
    backbone
        timm name of the network; resnet50 by default.
    samples
        Budget in images seen, at least 1, in place of --epochs.
    epochs
        Budget in passes over the training set, at least 1; 100 by default.
    batch_size
        Images per step over all processes; 256 by default, or fewer for a small training set.
    seed
        Seed of everything random, at least 0; 0 by default.
    where
        Only images for which this holds, as "modality == 'CT'".
    devices
        Processes, and GPUs, per node; 1 by default.
    num_nodes
        Machines, under torchrun or SLURM; 1 by default.
    precision
        bf16-mixed, 16-mixed, 64-true, or 32-true by default.
    hybrid_alpha
        Also learn from labels; weight of the method's own loss, at least 0; 1.0 by default.
    hybrid_beta
        Also learn from labels; weight of their loss, at least 0; 1.0 by default.
    config
        YAML or JSON file with all settings of the training.
    set_
        One setting of the training, as backbone.small_stem=true; config.json of a run has all. May
        be repeated.
    method_config
        YAML or JSON file with all settings of the method.
    method_set
        One setting of the method, as temperature=0.2; its page in the documentation has all. May be
        repeated.
    resume
        A run that was stopped or killed.
    """
    given = locals()
    from scoutview.api.pretrain import PretrainConfig
    from scoutview.api.pretrain import pretrain as run
    from scoutview.methods import config_class

    if resume is not None:
        require_alone(pretrain, given)
        note(f"Run: {run(cohort, resume=resume)}")
        return
    if method is None:
        raise ConfigError("pretrain needs --method, as --method byol; or --resume RUN.")
    flags: dict[str, Any] = {
        "backbone.name": backbone,
        "samples": samples,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "data.where": where,
        "devices": devices,
        "num_nodes": num_nodes,
        "precision": precision,
        "hybrid.alpha": hybrid_alpha,
        "hybrid.beta": hybrid_beta,
    }
    wishes = {name: value for name, value in flags.items() if value is not None}
    folder = run(
        cohort,
        method,
        out,
        config=settings(PretrainConfig, config, wishes, set_),
        settings=settings(config_class(method), method_config, {}, method_set),
    )
    note(f"Run: {folder}")
