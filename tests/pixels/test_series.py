"""Volumes from slices: the tilted head series, and series with planted faults."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scoutview.pixels.geometry import normal
from scoutview.pixels.headers import Header, Locator
from scoutview.pixels.probe import probe
from scoutview.pixels.read import read
from scoutview.pixels.series import assemble

HEAD = Path(__file__).parents[1] / "assets" / "ct_head"


def slices(count=6, gap=2.5, **values):
    plain = {
        "source": "dicom", "shape": (8, 8), "dtype": "int16", "spacing": (0.5, 0.5),
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "modality": "CT",
    }  # fmt: skip
    return [
        Header(
            locator=Locator(f"{i}.dcm"),
            position=(0.0, 0.0, gap * i),
            instance_number=i,
            **{**plain, **values},
        )
        for i in range(count)
    ]


def reasons(assembly):
    return sorted(finding.reason for finding in assembly.findings)


@pytest.fixture(scope="module")
def head():
    return [found for found in probe(HEAD / "ct_head_tilted.zip") if isinstance(found, Header)]


def test_assemble__head_ct_has_tilt_and_three_gaps(head):
    rows = list(csv.DictReader((HEAD / "slices.csv").open()))
    rng = np.random.default_rng(0)
    assembly = assemble([head[i] for i in rng.permutation(len(head))])
    assert [Path(h.locator.member).name for h in assembly.slices] == [
        Path(row["file"]).name for row in rows
    ]
    assert assembly.gantry_tilt == 18.5
    assert assembly.gaps == pytest.approx([float(row["gap_to_next"]) for row in rows[:-1]])
    assert reasons(assembly) == ["gantry_tilt", "uneven_spacing"]
    # Planes are closer than the table moves: 4.22 mm times the cosine of the tilt.
    assert assembly.spacing[0] == pytest.approx(4.22 * math.cos(math.radians(18.5)), abs=1e-3)
    assert assembly.spacing[1:] == pytest.approx((4 * 0.4882812,) * 2)
    assert assembly.even_run == (0, 14)
    assert assembly.step == pytest.approx((0, 0, 4.22))


def test_assemble__head_ct_reads_as_one_volume(head):
    assembly = assemble(head)
    volume = read([header.locator for header in assembly.slices])
    assert volume.shape == (28, 128, 128)
    np.testing.assert_array_equal(volume[5], read(assembly.slices[5].locator))
    rows = list(csv.DictReader((HEAD / "slices.csv").open()))
    assert volume.min() == min(int(row["stored_min"]) for row in rows)


def test_assemble__orders_along_the_normal_whatever_came():
    headers = slices()
    assembly = assemble(headers[::-1])
    assert [h.instance_number for h in assembly.slices] == list(range(6))
    assert assembly.findings == []
    assert assembly.spacing == (2.5, 0.5, 0.5)
    assert assembly.gantry_tilt == 0
    assert assembly.even_run == (0, 6)


def test_assemble__oblique_stacks_are_not_tilted():
    direction = (1.0, 0.0, 0.0, 0.0, math.cos(0.4), math.sin(0.4))
    along = normal(direction)
    headers = [
        replace(header, direction=direction, position=tuple(along * 3.0 * i))
        for i, header in enumerate(slices())
    ]
    assembly = assemble(headers)
    assert assembly.gantry_tilt == 0
    assert assembly.findings == []
    assert assembly.spacing[0] == pytest.approx(3.0)


def test_assemble__a_missing_slice_is_named():
    headers = slices(10)
    del headers[4]
    assembly = assemble(headers)
    assert reasons(assembly) == ["missing_slice"]
    assert assembly.findings[0].locator == Locator("3.dcm")
    assert len(assembly.slices) == 9
    assert assembly.spacing[0] == 2.5


def test_assemble__repeated_positions_keep_the_lowest_number():
    headers = slices()
    copy = replace(headers[2], locator=Locator("copy.dcm"), instance_number=99)
    assembly = assemble([copy, *headers])
    assert reasons(assembly) == ["duplicate_position"]
    assert assembly.findings[0].locator == Locator("copy.dcm")
    assert [h.instance_number for h in assembly.slices] == list(range(6))


def test_assemble__the_largest_orientation_stays():
    turned = [
        replace(h, direction=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0), locator=Locator(f"t{i}"))
        for i, h in enumerate(slices(3))
    ]
    assembly = assemble([*turned, *slices()])
    assert reasons(assembly) == ["mixed_orientation"] * 3
    assert len(assembly.slices) == 6


def test_assemble__the_largest_matrix_stays():
    other = [replace(h, shape=(16, 16), locator=Locator(f"o{h.instance_number}"))
             for h in slices(2)]  # fmt: skip
    finer = [replace(h, spacing=(0.4, 0.4), locator=Locator(f"f{h.instance_number}"))
             for h in slices(1)]  # fmt: skip
    assembly = assemble([*other, *finer, *slices()])
    assert reasons(assembly) == ["mixed_geometry"] * 3
    assert len(assembly.slices) == 6


def test_assemble__localisers_stay_out():
    scout = replace(slices(1)[0], localizer=True, locator=Locator("scout"))
    assembly = assemble([scout, *slices()])
    assert reasons(assembly) == ["localizer"]
    assert assembly.findings[0].locator == Locator("scout")
    assert len(assembly.slices) == 6


def test_assemble__slices_without_position_stay_out():
    lost = replace(slices(1)[0], position=None, locator=Locator("lost"))
    assert reasons(assemble([lost, *slices()])) == ["no_position"]


def test_assemble__a_series_without_positions_follows_its_numbers():
    headers = [replace(h, position=None) for h in slices()]
    assembly = assemble(headers[::-1])
    assert [h.instance_number for h in assembly.slices] == list(range(6))
    assert reasons(assembly) == ["no_position"]
    assert math.isnan(assembly.spacing[0])
    assert assembly.gaps == []


def test_assemble__a_tilt_that_only_the_header_names_is_reported():
    assembly = assemble(slices(gantry_tilt=12.0))
    assert reasons(assembly) == ["gantry_tilt"]
    assert assembly.gantry_tilt == 12.0


def test_assemble__one_slice_is_a_volume_of_one():
    assembly = assemble(slices(1))
    assert len(assembly.slices) == 1
    assert assembly.gaps == []
    assert math.isnan(assembly.spacing[0])
