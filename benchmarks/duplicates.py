"""Near copies among one million images: time and memory of hashing all shifts and looking them up.

Small images are smooth noise, as different from each other as natural images; 1,000 of them have a
copy that is shifted by up to two pixels of 32 and re-windowed. No pixels are confirmed here: that
costs the candidates only.

    python benchmarks/duplicates.py [--quick]
"""

import argparse
import resource
import time

import cv2
import numpy as np

from scoutview.store.duplicates import RADIUS, HashIndex
from scoutview.store.hashes import SIDE, perceptual_hash, shifted_hashes

PLANTED, CHUNK = 1000, 4096


def smooth(rng: np.random.Generator, count: int) -> np.ndarray:
    """Small images whose detail is about four pixels wide."""
    noise = rng.normal(size=(count, 16, 16)).astype(np.float32)
    images = np.stack([cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for x in noise])
    return np.clip(images * 45 + 128, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 images")
    count = 50_000 if parser.parse_args().quick else 1_000_000
    rng = np.random.default_rng(0)
    small = np.concatenate([smooth(rng, 10_000) for _ in range(count // 10_000)])
    for i in range(PLANTED):
        dy, dx = rng.integers(-2, 3, 2)
        moved = np.roll(small[i], (dy, dx), axis=(0, 1)).astype(float)
        small[-1 - i] = np.clip(moved * rng.uniform(0.7, 1.1) + rng.uniform(-15, 15), 0, 255)
    hashes = np.array([perceptual_hash(image) for image in small], dtype=np.uint64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    index = HashIndex(hashes)
    built = time.process_time() - start
    hashed = looked = 0.0
    candidates = 0
    found = set()
    for begin in range(0, count, CHUNK):
        start = time.process_time()
        probes = shifted_hashes(small[begin : begin + CHUNK])
        hashed += time.process_time() - start
        start = time.process_time()
        query, match = index.within(probes, RADIUS)
        looked += time.process_time() - start
        other = query + begin != match
        candidates += int(other.sum())
        found |= set(zip((query + begin)[other].tolist(), match[other].tolist(), strict=True))
    recall = sum((i, count - 1 - i) in found or (count - 1 - i, i) in found for i in range(PLANTED))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count:,} images: index {built:.1f} s, shifts {hashed:.1f} s, look-ups {looked:.1f} s"
        f" (CPU time, one core); {candidates:,} candidate pairs, {recall} of {PLANTED} planted"
        f" copies among them; {after - before:.0f} MB above the {before:.0f} MB of the input"
    )


if __name__ == "__main__":
    main()
