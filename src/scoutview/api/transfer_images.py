"""Which images a transfer uses, how they are divided, and which of them were seen before."""

from typing import Any

import numpy as np
import pandas as pd

from scoutview.api.store import stored
from scoutview.api.transfer_config import TransferConfig
from scoutview.api.transfer_runs import Images, Start
from scoutview.base.errors import ConfigError, DataError, LeakageError
from scoutview.data.samples import DataConfig
from scoutview.index.cohort import Cohort
from scoutview.results.run import RunFolder
from scoutview.store.duplicates import find_duplicates
from scoutview.store.reader import Store
from scoutview.tasks.evaluation import Evaluation, Rows
from scoutview.tasks.leakage import check_parts, check_patients, check_pretraining, resolve_copies
from scoutview.tasks.targets import read_targets


def select_images(part: Cohort, store: Store, config: TransferConfig) -> Images:
    """Select the images that have a label and pixels."""
    if config.data.split is not None:
        raise ConfigError(
            f"transfer needs train, val and test, got data.split = {config.data.split!r}; leave it"
            " out, and select images with data.where."
        )
    targets = read_targets(part.table, part.labels, config.labels, uncertain=config.uncertain)
    rows = store.row_of(part.table["image_id"])
    keep = np.flatnonzero(targets.known & store.present()[rows])
    if not len(keep):
        raise DataError("No selected image has both a label and pixels; see problems.csv.")
    return Images(
        table=part.table.iloc[keep].reset_index(drop=True),
        targets=targets.of(keep),
        rows=rows[keep],
        evaluation=Evaluation(
            store,
            config.data,
            config.view,
            config.mean,
            config.std,
            config.batch_size,
            config.threads,
        ),
    )


def divide(
    images: Images, pairs: pd.DataFrame, config: TransferConfig
) -> tuple[dict[int, dict[str, Rows]], list[str], list[dict[str, Any]]]:
    """Divide images into train, val and test for every fold, without copies across them."""
    blocks: dict[int, dict[str, Rows]] = {}
    notes: list[str] = []
    dropped: list[dict[str, Any]] = []
    ids = images.table["image_id"]
    for fold in config.folds or (-1,):
        part = _part_of(images.table, fold)
        try:
            check_patients(pd.DataFrame({"patient_id": images.table["patient_id"], "part": part}))
        except LeakageError as error:
            if config.on_leak != "allow":
                raise
            notes.append(f"{error} This was allowed.")
        parts = pd.Series(part.to_numpy(), index=ids)
        found = resolve_copies(parts, pairs, config.on_leak)
        kept = parts[~parts.index.isin(found.drop)]
        check_parts(kept, folds=int(images.table["fold"].max()) + 1 if fold < 0 else 0)
        left_out = parts.index.isin(found.drop)
        blocks[fold] = {
            name: np.flatnonzero((part.to_numpy() == name) & ~left_out)
            for name in ("train", "val", "test")
        }
        notes += found.notes
        dropped += found.dropped
    return blocks, notes, dropped


def _part_of(table: pd.DataFrame, fold: int) -> pd.Series:
    if fold < 0:
        return table["split"].astype(str)
    folds = table["fold"].to_numpy()
    count = int(folds.max()) + 1
    if count < 3 or fold >= count:
        raise ConfigError(
            f"Fold {fold} needs a cohort with at least 3 folds and more than {fold}, this one has"
            f" {max(0, count)}; index it with a k-fold split."
        )
    part = np.full(len(table), "train", dtype=object)
    part[folds == fold] = "test"
    part[folds == (fold + 1) % count] = "val"
    part[folds < 0] = ""
    return pd.Series(part, index=table.index)


def seen_in_pretraining(
    start: Start,
    part: Cohort,
    images: Images,
    blocks: dict[int, dict[str, Rows]],
    config: TransferConfig,
) -> list[str]:
    """Look for test images in the set that the backbone was pre-trained on."""
    if start.run is None:
        return []
    seen = pretraining_images(RunFolder.open(start.run))
    if seen is None:
        return [
            f"{start.name}: the pre-training cohort is not there, so nobody looked for test images"
            " in it."
        ]
    store = images.evaluation.store
    same = seen.folder.resolve() == part.folder.resolve()
    same = same and store.has(seen.table["image_id"])
    pairs = find_duplicates(store, part, against=(store if same else stored(seen), seen))
    tested = np.unique(np.concatenate([block["test"] for block in blocks.values()]))
    test = images.table["image_id"].iloc[tested].tolist()
    allow = config.on_leak == "allow"
    by = "pixels are equal or nearly so"
    return list(check_pretraining(test, pairs["image_id_a"].tolist(), allow=allow, by=by))


def pretraining_images(run: RunFolder) -> Cohort | None:
    """Open the part of a cohort that a run was pre-trained on; None if it is not there."""
    values = run.config
    folder = (run.path / str(values["cohort"])).resolve()
    if not (folder / "cohort.json").is_file():
        return None
    data = DataConfig.build(values["data"])
    part = Cohort.open(folder).where(data.where)
    return part.split(data.split) if data.split else part
