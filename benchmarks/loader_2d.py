"""Samples per second from the store: crops of 300 px from 512 px, resized to 224 px, batches of 64.

Ours is the loader with addressed crops, in the caller's thread and in one thread of its own. It is
paired with the floor (a plain loop over a memory map into one preallocated batch, crops known
beforehand), with torch's DataLoader over the same memory map, and with WebDataset over a tar of
.npy files, both in this process. Ours and the floor are compared bit by bit before anything is
timed.

    python benchmarks/loader_2d.py [--quick] [--out FILE]     needs the extra `bench`
"""

import io
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from pairing import finish, paired, parser
from scoutview.base.randomness import VIEWS, generator
from scoutview.data.loader import Loader
from scoutview.data.sampler import PermutationSampler
from scoutview.data.samples import DataConfig, Samples
from scoutview.pixels.intensity import FullRange
from scoutview.store.build import build_store
from scoutview.store.reader import Store

SIDE, CROP, VIEW, BATCH, SEED = 512, 300, 224, 64, 0
PEER = np.random.default_rng(0)


class Crop:
    """The plainest pipeline: one square crop at whole pixels, resized."""

    sizes = ((VIEW, VIEW),)

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> list[Any]:
        """Corner of the crop."""
        y, x = generator.random(2).tolist()
        return [(int(y * (shape[0] - CROP + 1)), int(x * (shape[1] - CROP + 1)))]

    def geometry(self, params: Any) -> Any:
        """Affine of the view."""
        scale = CROP / VIEW
        shift = (scale - 1) / 2
        return ((scale, 0.0, params[0] + shift), (0.0, scale, params[1] + shift))

    def bounding_box(self, params: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """The crop itself."""
        ((y, x),) = params
        return (y, x), (y + CROP, x + CROP)

    def apply(self, image: Any, params: Any, out: Any, origin: Any = (0, 0)) -> None:
        """Crop and resize."""
        y, x = params[0][0] - origin[0], params[0][1] - origin[1]
        part = image[y : y + CROP, x : x + CROP]
        cv2.resize(part, (VIEW, VIEW), dst=out[0][0], interpolation=cv2.INTER_LINEAR)


class FakeCohort:
    """What the store asks of a cohort: a table and the private list of files."""

    def __init__(self, folder: Path, images: np.ndarray) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        np.savez(folder / "images.npz", images=images)
        ids = [f"{i + 1:016x}" for i in range(len(images))]
        n = len(ids)
        self.table = pd.DataFrame(
            {
                "image_id": ids, "kind": "image", "modality": "CR", "photometric": "MONOCHROME2",
                "height": SIDE, "width": SIDE, "n_slices": 1, "channels": 1, "dtype": "uint16",
                "bits_stored": 16, "slope": 1.0, "intercept": 0.0, "window_center": np.nan,
                "window_width": np.nan, "split": "train", "file_id": "",
            }
        )  # fmt: skip
        private = {
            "image_id": ids, "order": [0] * n, "path": [str(folder / "images.npz")] * n,
            "member": ["images"] * n, "item": list(range(n)), "size": [0] * n,
            "mtime_ns": [0] * n, "status": ["image"] * n,
        }  # fmt: skip
        pq.write_table(pa.table(private), folder / "private.parquet")


class Mapped(Dataset):
    """The same memory map, one sample at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> torch.Tensor:
        rng = generator(SEED, VIEWS, 0, i)
        ((y, x),) = Crop().draw((SIDE, SIDE), rng)
        part = self.images[i, y : y + CROP, x : x + CROP]
        return torch.from_numpy(cv2.resize(part, (VIEW, VIEW)))[None]


def tar_of(images: np.ndarray, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for i, image in enumerate(images):
            buffer = io.BytesIO()
            np.save(buffer, image)
            told = tarfile.TarInfo(f"{i:06}.npy")
            told.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(told, buffer)
    return path


def decoded(sample: dict[str, Any]) -> np.ndarray:
    image = np.load(io.BytesIO(sample["npy"]))
    y, x = PEER.integers(0, SIDE - CROP + 1, 2)
    return cv2.resize(image[y : y + CROP, x : x + CROP], (VIEW, VIEW))[None]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    count, batches = (128, 8) if arguments.quick else (512, 24)
    images = np.random.default_rng(0).integers(0, 65536, (count, SIDE, SIDE), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cohort = FakeCohort(folder / "cohort", images)
        store = build_store(cohort, workers=1)  # type: ignore[arg-type]
        report = measure(arguments, store, images, folder, batches)
    finish(report, arguments.out)


def measure(  # noqa: C901 (one short function per side)
    arguments: Any, store: Store, images: np.ndarray, folder: Path, batches: int
) -> Any:
    """Time all sides against each other."""
    samples = Samples(store, np.arange(len(store)), DataConfig(intensity=FullRange()))
    sampler = PermutationSampler(len(samples), BATCH, seed=SEED)
    loader = Loader(samples, Crop(), sampler, seed=SEED, threads=1)
    alone = Loader(samples, Crop(), sampler, seed=SEED, threads=0)
    shard = store.folder / "shards" / f"{store.shards[0]}.bin"
    mapped = np.memmap(shard, dtype=np.uint16, mode="r").reshape(len(images), SIDE, SIDE)
    plan = [floor_plan(store, sampler, step) for step in range(batches)]
    out = np.empty((BATCH, 1, VIEW, VIEW), np.uint16)
    tar = tar_of(images, folder / "images.tar")

    def ours(made: Loader) -> float:
        # It ends with the round: batches made ahead would count for whoever runs next.
        return sum(len(batch) for batch in made.batches(0, batches))

    def floor() -> float:
        for batch in plan:
            for place, (row, y, x) in enumerate(batch):
                part = mapped[row, y : y + CROP, x : x + CROP]
                cv2.resize(part, (VIEW, VIEW), dst=out[place, 0], interpolation=cv2.INTER_LINEAR)
        return batches * BATCH

    def torch_loader() -> float:
        done = 0
        while done < batches * BATCH:
            for batch in DataLoader(Mapped(mapped), BATCH, shuffle=True):
                done += len(batch)
        return done

    def web() -> float:
        done = 0
        while done < batches * BATCH:
            pipeline = webdataset.WebDataset(str(tar), shardshuffle=False).map(decoded)
            # Its own collation turns uint16 pixels into Python numbers, 60 times slower.
            for batch in pipeline.batched(BATCH, collation_fn=np.stack):
                done += len(batch)
        return done

    expected = next(loader.batches()).views[0].numpy().copy()
    for place, (row, y, x) in enumerate(plan[0]):
        part = mapped[row, y : y + CROP, x : x + CROP]
        assert np.array_equal(cv2.resize(part, (VIEW, VIEW)), expected[place, 0])
    return paired(
        "loader_2d",
        f"samples; {SIDE} px uint16, crop {CROP} -> {VIEW}, batch {BATCH}, one core",
        {
            "loader, 1 thread": lambda: ours(loader),
            "memory-map crop loop": floor,
            "loader, caller's thread": lambda: ours(alone),
            "DataLoader on the map": torch_loader,
            "WebDataset .npy": web,
        },
        rounds=arguments.rounds,
        targets={"memory-map crop loop": 0.85, "WebDataset .npy": 5.0},
        extra={"images": len(images), "batches a round": batches},
    )


def floor_plan(store: Store, sampler: PermutationSampler, step: int) -> list[tuple[int, int, int]]:
    """Rows and corners of the crops that the loader draws in a step."""
    drawn = sampler.draw(step)
    records = store.table.records(drawn.positions)
    plan = []
    for position, epoch, record in zip(drawn.positions, drawn.epochs, records, strict=True):
        rng = generator(SEED, VIEWS, int(epoch), record.image_key)
        plan.append((int(position), *Crop().draw((SIDE, SIDE), rng)[0]))
    return plan


if __name__ == "__main__":
    main()
