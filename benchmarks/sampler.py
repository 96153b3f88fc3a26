"""4,096 of 105 million images: drawn at a random step and located in the row table.

The row table is written (6.3 GB) and every row that comes back is checked to be the one that was
drawn. Paired with a slice of a stored `numpy.random.permutation`, the usual way, of which only the
slice is timed: making it takes seconds and 840 MB in every process and epoch.

    python benchmarks/sampler.py [--quick] [--out FILE]
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from pairing import finish, paired, parser
from scoutview.data.sampler import PermutationSampler
from scoutview.store.rows import ROW_DTYPE, RowTable

IMAGES, BATCH, BAR_MS = 105_000_000, 4096, 10.0


def write_table(path: Path, images: int) -> None:
    """Write rows whose key is their number."""
    with path.open("wb") as file:
        for start in range(0, images, 1 << 20):
            rows = np.zeros(min(1 << 20, images - start), dtype=ROW_DTYPE)
            rows["image_key"] = np.arange(start, start + len(rows))
            file.write(rows.data)


def main() -> None:
    arguments = parser(__doc__).parse_args()
    images = IMAGES // 10 if arguments.quick else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.bin"
        write_table(path, images)
        opened = time.perf_counter()
        table = RowTable(path)
        opened = time.perf_counter() - opened
        sampler = PermutationSampler(images, BATCH, seed=1)
        rng = np.random.default_rng(0)
        taken, used, memory = [], [], []
        for _ in range(30):
            step = int(rng.integers(0, 10**9))
            start, busy = time.perf_counter(), time.process_time()
            found = table.take(sampler.draw(step).positions)
            taken.append((time.perf_counter() - start) * 1e3)
            used.append((time.process_time() - busy) * 1e3)
            assert np.array_equal(found["image_key"], sampler.draw(step).positions)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        step = int(rng.integers(0, 10**9))
        again = PermutationSampler(images, BATCH, seed=1)
        start = time.perf_counter()
        resumed = again.draw(step).positions
        resume_ms = (time.perf_counter() - start) * 1e3
        assert np.array_equal(resumed, sampler.draw(step).positions)
        made = time.perf_counter()
        stored = rng.permutation(images)
        made = time.perf_counter() - made
        steps = rng.integers(0, images // BATCH, 8)

        def ours() -> float:
            for step in steps:
                table.take(sampler.draw(int(step)).positions)
            return len(steps)

        def slices() -> float:
            for step in steps:
                table.take(stored[step * BATCH : (step + 1) * BATCH])
            return len(steps)

        report = paired(
            "sampler",
            f"batches of {BATCH} of {images:,} images, drawn and located, wall time",
            {"Feistel permutation": ours, "slice of a stored permutation": slices},
            clock="wall",
            rounds=arguments.rounds,
            extra={
                "ms at a random step (median, quartiles)": np.percentile(taken, [50, 25, 75])
                .round(2)
                .tolist(),
                "of it CPU ms": np.percentile(used, [50, 25, 75]).round(2).tolist(),
                "bar, ms": BAR_MS,
                "met": bool(np.percentile(taken, 50) <= BAR_MS),
                "open, ms": round(opened * 1e3, 3),
                "resume at a random step, ms": round(resume_ms, 2),
                "memory after 5 and 30 batches, MB": [round(memory[4]), round(memory[-1])],
                "making the stored permutation": f"{made:.1f} s, {stored.nbytes / 1e6:.0f} MB",
            },
        )
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
