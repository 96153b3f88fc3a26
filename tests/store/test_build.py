import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from tests.processes import kill_everywhere
from tests.store.conftest import index, texture, write_nifti, write_png
from tests.store.crashing import prepare_or_die

from scoutview.base.errors import DataError, RunError, ScoutviewError
from scoutview.base.lock import alone
from scoutview.index.cohort import Cohort
from scoutview.store import build
from scoutview.store.build import StoreConfig, build_store
from scoutview.store.reader import Store
from scoutview.store.rows import LEVELS, VOLUME


def original(cohort, image_id):
    """Read an image's source with its format's own library."""
    path = cohort.locators(image_id)[0].path
    if path.endswith(".nii"):
        return np.asarray(nibabel.load(path).dataobj).T
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


def states(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*") if p.is_file()}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def only(sources, *names):
    for path in sources.iterdir():
        if path.name not in names:
            path.unlink()


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_build_store__keeps_every_pixel_in_the_order_of_the_cohort(cohort, codec):
    store = build_store(cohort, StoreConfig(codec=codec), workers=1)
    assert len(store) == 8
    assert store.row_of(cohort.table["image_id"]).tolist() == list(range(8))
    for row, image_id in enumerate(cohort.table["image_id"]):
        expected = original(cohort, image_id)
        assert store.read(row).dtype == expected.dtype
        np.testing.assert_array_equal(store.read(row), expected)
        window = (slice(1, 5), slice(3, 9), slice(2, 4))[: expected.ndim]
        np.testing.assert_array_equal(store.crop(row, window), expected[window])
    assert store.verify() == []


def test_build_store__repeats_what_the_cohort_says(cohort):
    store = build_store(cohort, workers=1)
    for row, line in enumerate(cohort.table.itertuples()):
        record = store.record(row)
        assert record.image_key == line.image_key == int(line.image_id, 16) >> 1
        assert bool(record.flags & VOLUME) == (line.kind == "volume")
        assert store.groups[record.group] == line.modality
        assert (record.slope, record.intercept) == (line.slope, line.intercept)
        assert record.bits == line.bits_stored


def test_build_store__measures_the_quantiles_of_every_image(cohort):
    store = build_store(cohort, workers=1)
    for row, image_id in enumerate(cohort.table["image_id"]):
        pixels = original(cohort, image_id)
        np.testing.assert_allclose(store.levels[row], np.quantile(pixels, LEVELS), rtol=1e-2)
        assert store.levels[row][0] == pixels.min()
        assert store.levels[row][-1] == pixels.max()


def test_build_store__aligns_large_images_to_pages_and_small_ones_to_lines(pneumonia, cohort):
    small = build_store(pneumonia, workers=1)
    offsets = small.table.mapped["offset"]
    assert (offsets % 64 == 0).all()
    assert (offsets % 4096 != 0).any()
    shard = small.folder / "shards" / f"{small.shards[0]}.bin"
    assert shard.stat().st_size < 1.1 * len(small) * 28 * 28
    large = build_store(cohort, workers=1)
    assert (large.table.mapped["length"] >= 4096).all()
    assert (large.table.mapped["offset"] % 4096 == 0).all()


def test_build_store__does_nothing_when_nothing_changed(cohort):
    store = build_store(cohort, workers=1)
    before = states(store.folder)
    build_store(Cohort.open(cohort.folder), workers=1)
    assert states(store.folder) == before


def test_build_store__decodes_only_what_is_new(sources, tmp_path):
    store = build_store(index(sources, tmp_path / "cohort"), workers=1)
    shards = states(store.folder / "shards")
    write_png(sources, "image9.png", texture((40, 56), 99))
    cohort = index(sources, tmp_path / "cohort")
    again = build_store(cohort, workers=1)
    after = states(store.folder / "shards")
    assert shards.items() <= after.items()
    assert len(after) == len(shards) + 2
    for row, image_id in enumerate(cohort.table["image_id"]):
        np.testing.assert_array_equal(again.read(row), original(cohort, image_id))


def test_build_store__decodes_a_changed_file_again(sources, tmp_path):
    build_store(index(sources, tmp_path / "cohort"), workers=1)
    write_png(sources, "image3.png", texture((40, 56), 77))
    os.utime(sources / "image3.png", ns=(time.time_ns(), time.time_ns() + 10**9))
    cohort = index(sources, tmp_path / "cohort")
    store = build_store(cohort, workers=1)
    for row, image_id in enumerate(cohort.table["image_id"]):
        np.testing.assert_array_equal(store.read(row), original(cohort, image_id))


def test_build_store__of_a_part_keeps_what_another_part_needed(cohort):
    whole = build_store(cohort, workers=1)
    shards = set(states(whole.folder / "shards"))
    part = cohort.where("kind == 'volume'")
    store = build_store(part, workers=1)
    assert len(store) == 2
    assert set(states(whole.folder / "shards")) == shards
    with pytest.raises(DataError, match="6 of 8 images are not in the store"):
        store.row_of(cohort.table["image_id"])


@pytest.mark.ddp
def test_build_store__gives_the_same_bytes_for_any_number_of_workers(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_JOB_IMAGES", 1)
    config = StoreConfig(shard_bytes=1 << 16)
    one = build_store(cohort, config, workers=1, folder=tmp_path / "one")
    two = build_store(cohort, config, workers=2, folder=tmp_path / "two")
    assert len(one.shards) > 1
    assert contents(one.folder) == contents(two.folder)


@pytest.mark.ddp
def test_build_store__survives_a_decoder_that_ends_its_process(cohort, monkeypatch):
    monkeypatch.setattr(build, "prepare", prepare_or_die)
    store = build_store(cohort, workers=2)
    assert store.absent == 1
    (problem,) = store.problems()
    assert problem["reason"] == "decoder_crashed"
    assert cohort.locators(problem["image_id"])[0].path.endswith("image2.png")
    monkeypatch.undo()
    assert build_store(cohort, workers=1).absent == 1  # nothing changed, nothing is tried
    assert build_store(cohort, workers=1, retry=True).absent == 0


def test_build_store__names_broken_images_and_keeps_the_others(sources, tmp_path):
    cohort = index(sources, tmp_path / "cohort")
    whole = (sources / "image1.png").read_bytes()
    (sources / "image1.png").write_bytes(whole[: len(whole) // 2])
    (sources / "volume0.nii").unlink()
    store = build_store(cohort, workers=1)
    problems = store.problems()
    assert store.absent == len(problems) == 2
    assert (~store.present()).sum() == 2
    for problem in problems:
        assert problem["reason"]
        assert problem["action"]
        assert not cohort.locators(problem["image_id"])[0].path.endswith("image0.png")
        with pytest.raises(DataError, match=r"problems\.csv"):
            store.read(int(store.row_of([problem["image_id"]])[0]))
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert b"image1" not in path.read_bytes()
            assert str(sources).encode() not in path.read_bytes()


def test_build_store__says_that_pixels_are_undefined_and_keeps_them(tmp_path):
    pixels = texture((3, 20, 20), 0).astype(np.float32)
    pixels[1, 2, 3] = np.nan
    write_nifti(tmp_path / "sources", "undefined.nii", pixels)
    store = build_store(index(tmp_path / "sources", tmp_path / "cohort"), workers=1)
    assert [problem["reason"] for problem in store.problems()] == ["nan_pixels"]
    assert store.absent == 0
    assert np.isfinite(store.levels[0]).all()
    np.testing.assert_array_equal(store.read(0), pixels)


def test_build_store__an_image_without_any_finite_pixel_is_said_to_be_so(tmp_path):
    write_nifti(tmp_path / "sources", "whole.nii", texture((3, 20, 20), 0).astype(np.float32))
    write_nifti(tmp_path / "sources", "nothing.nii", np.full((3, 20, 20), np.nan, np.float32))
    store = build_store(index(tmp_path / "sources", tmp_path / "cohort"), workers=1)
    (problem,) = store.problems()
    assert problem["reason"] == "nan_pixels"
    assert "No pixel is finite" in problem["detail"]
    assert "Replace the undefined pixels" in problem["action"]
    assert store.absent == 1


def test_build_store__shrinks_to_max_side_and_records_it(cohort):
    store = build_store(cohort, StoreConfig(max_side=28), workers=1)
    assert store.config["max_side"] == 28
    for row, image_id in enumerate(cohort.table["image_id"]):
        expected = original(cohort, image_id)
        shape = store.read(row).shape
        assert max(shape[-2:]) == 28
        assert shape[:-2] == expected.shape[:-2]
        assert store.read(row).mean() == pytest.approx(expected.mean(), rel=0.01)


def test_build_store__shrinks_by_area_means(tmp_path):
    write_png(tmp_path / "sources", "image.png", texture((40, 56), 0))
    cohort = index(tmp_path / "sources", tmp_path / "cohort")
    store = build_store(cohort, StoreConfig(max_side=28), workers=1)
    means = texture((40, 56), 0).reshape(20, 2, 28, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(store.read(0), means, atol=0.51)


def test_build_store__refuses_a_cohort_without_images(cohort):
    empty = cohort.split("val")
    with pytest.raises(DataError, match="no images"):
        build_store(empty, workers=1)


def test_open__refuses_a_folder_without_a_finished_store(tmp_path):
    with pytest.raises(RunError, match="scoutview store"):
        Store.open(tmp_path)


def test_verify__names_the_image_whose_bytes_changed(cohort):
    store = build_store(cohort, workers=1)
    record = store.record(3)
    with (store.folder / "shards" / f"{store.shards[record.shard]}.bin").open("r+b") as file:
        file.seek(record.offset + 17)
        byte = file.read(1)[0]
        file.seek(record.offset + 17)
        file.write(bytes([byte ^ 4]))
    damage = Store.open(store.folder).verify()
    assert [found.image_id for found in damage] == [cohort.table["image_id"][3]]


def test_verify__refuses_a_changed_row_table(cohort):
    folder = build_store(cohort, workers=1).folder
    table = bytearray((folder / "rows.bin").read_bytes())
    table[11] ^= 1
    (folder / "rows.bin").write_bytes(table)
    with pytest.raises(RunError, match=r"rows\.bin is damaged; remove store\.json"):
        Store.open(folder).verify()
    (folder / "store.json").unlink()
    assert build_store(cohort, workers=1).verify() == []


def test_read__says_where_packed_pixels_are_damaged(cohort):
    store = build_store(cohort, StoreConfig(codec="lz4"), workers=1)
    record = store.record(3)
    path = store.folder / "shards" / f"{store.shards[record.shard]}.bin"
    packed = bytearray(path.read_bytes())
    packed[record.offset : record.offset + record.length] = bytes(record.length)
    path.write_bytes(packed)
    with pytest.raises(RunError, match=r"an image cannot be unpacked .* --verify"):
        Store.open(store.folder).read(3)


def test_build_store__decodes_a_shard_again_that_was_cut_short(cohort, caplog):
    store = build_store(cohort, workers=1)
    whole = contents(store.folder)
    path = store.folder / "shards" / f"{store.shards[0]}.bin"
    path.write_bytes(path.read_bytes()[:-4096])
    assert build_store(cohort, workers=1).verify() == []
    assert "cut short" in caplog.text
    assert contents(store.folder) == whole


@pytest.mark.parametrize("name", ["rows.bin", "levels.bin", "small.bin", "hashes.parquet"])
def test_open__names_a_missing_table_and_a_build_writes_it_again(cohort, name):
    folder = build_store(cohort, workers=1).folder
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing; run: scoutview store COHORT"):
        Store.open(folder)
    assert build_store(cohort, workers=1).verify() == []


def test_build_store__two_at_once_are_refused(cohort, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    with alone(folder, "build of this store"), pytest.raises(RunError, match="Another build of"):
        build_store(cohort, workers=1, folder=folder)
    assert build_store(cohort, workers=1, folder=folder).verify() == []


def test_verify__refuses_a_store_with_a_missing_shard(cohort):
    store = build_store(cohort, workers=1)
    (store.folder / "shards" / f"{store.shards[0]}.bin").unlink()
    with pytest.raises(RunError, match="missing"):
        store.verify()
    assert build_store(cohort, workers=1).verify() == []


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_build_store__killed_anywhere_is_never_read_as_whole_and_goes_on(
    sources, tmp_path, monkeypatch, stride
):
    only(sources, "image0.png", "image1.png", "image2.png", "image3.png")
    cohort = index(sources, tmp_path / "cohort")
    monkeypatch.setattr(build, "_JOB_IMAGES", 2)
    config = StoreConfig(shard_bytes=1 << 14)  # two shards of two images
    folder, expected = tmp_path / "store", build_store(cohort, config, folder=tmp_path / "whole")

    def work():
        build_store(cohort, config, workers=1, folder=folder)

    def check(n):
        done = {p.stem for p in (folder / "shards").glob("*.parquet")} if folder.exists() else set()
        try:
            store = Store.open(folder)
        except ScoutviewError:
            store = None
        if store is not None:
            assert store.verify() == []
            assert contents(folder).items() >= contents(expected.folder).items()
        kept = tmp_path / f"kept{n}"
        if folder.exists():
            shutil.copytree(folder, kept)
        again = build_store(cohort, config, workers=1, folder=kept)
        assert contents(kept) == contents(expected.folder)
        assert done <= {p.stem for p in (again.folder / "shards").glob("*.parquet")}
        shutil.rmtree(kept)
        shutil.rmtree(folder, ignore_errors=True)

    assert len(expected.shards) == 2
    assert kill_everywhere(work, check, stride=stride) > 25 // stride


_BUILD = """
import sys
from tests.store.crashing import prepare_slowly
from scoutview.index.cohort import Cohort
from scoutview.store import build
if __name__ == "__main__":
    build.prepare, build._JOB_IMAGES = prepare_slowly, 1
    config = build.StoreConfig(shard_bytes=1 << 13)
    build.build_store(Cohort.open(sys.argv[1]), config, workers=2, folder=sys.argv[2])
"""


def alive(group):
    """Processes of a group that are not mere entries for a parent to collect."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(status.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
@pytest.mark.parametrize("all_of_them", [True, False], ids=["group", "parent"])
def test_build_store__killed_while_two_workers_decode_goes_on(
    cohort, tmp_path, monkeypatch, all_of_them
):
    monkeypatch.setattr(build, "_JOB_IMAGES", 1)
    config = StoreConfig(shard_bytes=1 << 13)  # a shard for every image
    whole = build_store(cohort, config, workers=1, folder=tmp_path / "whole")
    folder, script = tmp_path / "store", tmp_path / "build.py"
    script.write_text(_BUILD)
    command = [sys.executable, str(script), str(cohort.folder), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    waits = (1, 4) if all_of_them else (2,)
    for shards in waits:
        process = subprocess.Popen(command, start_new_session=True, env=environment)
        limit = time.monotonic() + 120
        while len(list((folder / "shards").glob("*.parquet"))) < shards:
            assert process.poll() is None, "the build ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.005)
        assert len(alive(process.pid)) > 2, "workers run beside the build"
        (os.killpg if all_of_them else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        while alive(process.pid):  # workers end with their parent
            assert time.monotonic() < limit
            time.sleep(0.01)
        with pytest.raises(RunError):
            Store.open(folder)
    kept = states(folder / "shards")
    finished = {path: state for path, state in kept.items() if path.suffix == ".parquet"}
    assert waits[-1] <= len(finished) < len(whole.shards)
    store = build_store(Cohort.open(cohort.folder), config, workers=2, folder=folder)
    assert store.verify() == []
    assert finished.items() <= states(folder / "shards").items(), "nothing was done twice"
    assert contents(folder) == contents(whole.folder)


def test_build_store__killed_in_the_second_shard_keeps_the_first(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_JOB_IMAGES", 1)
    config = StoreConfig(shard_bytes=1 << 16)
    whole = build_store(cohort, config, workers=1, folder=tmp_path / "whole")
    assert len(whole.shards) > 1
    calls = []

    def counted(job):
        calls.append(job)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original_prepare(job)

    original_prepare = build.prepare
    monkeypatch.setattr(build, "prepare", counted)
    with pytest.raises(KeyboardInterrupt):
        build_store(cohort, config, workers=1, folder=tmp_path / "store")
    finished = states(tmp_path / "store" / "shards")
    assert finished
    monkeypatch.setattr(build, "prepare", original_prepare)
    build_store(cohort, config, workers=1, folder=tmp_path / "store")
    assert finished.items() <= states(tmp_path / "store" / "shards").items()
    assert contents(tmp_path / "store") == contents(whole.folder)


@pytest.mark.parametrize("codec", ["raw", "lz4"])
@pytest.mark.parametrize("kept", [0, 100, None], ids=["empty", "short", "missing"])
def test_read__of_a_shard_that_is_cut_short_says_what_to_do(cohort, codec, kept):
    store = build_store(cohort, StoreConfig(codec=codec), workers=1)
    expected = [store.read(row).copy() for row in range(len(store))]
    path = store.folder / "shards" / f"{store.shards[0]}.bin"
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    store = Store.open(store.folder)
    with pytest.raises(RunError, match=rf"{path.name} is .*remove it and run: scoutview store"):
        store.read(len(store) - 1)
    path.unlink(missing_ok=True)
    again = build_store(cohort, StoreConfig(codec=codec), workers=1)
    for row, pixels in enumerate(expected):
        np.testing.assert_array_equal(again.read(row), pixels)
