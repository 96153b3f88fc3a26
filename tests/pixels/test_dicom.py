"""Every file of the zoo against values that pydicom 3.0.2 gave; headers by hand."""

import csv
import hashlib
import io
from pathlib import Path

import gdcm
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGLosslessSV1

from scoutview.pixels.findings import PixelError
from scoutview.pixels.headers import Header, Locator, NonImage, Problem
from scoutview.pixels.probe import probe
from scoutview.pixels.read import read

ASSETS = Path(__file__).parents[1] / "assets"
ZOO = ASSETS / "dicom_zoo"
ROWS = list(csv.DictReader((ZOO / "expected.csv").open()))
NOT_IMAGES = {"liver_1frame.dcm": "segmentation", "liver.dcm": "segmentation", "rtdose.dcm": "dose"}
IMAGES = [
    row for row in ROWS if row["file"] not in NOT_IMAGES and row["file"] != "MR_truncated.dcm"
]


def zoo(name):
    return ZOO / "files" / name


def header_of(name):
    found = list(probe(zoo(name)))
    assert isinstance(found[0], Header)
    return found[0]


LOSSY = [row for row in IMAGES if not row["sha1_of_pixels_lossless_only"]]
COLOUR_CONVERTED = ("YBR_FULL", "YBR_FULL_422")
MODALITIES = {"OT": "other", "": "unknown"}
"""The zoo's words of modality that the closed list does not have."""


def tolerance(row):
    """Most grey levels that decoders may differ in."""
    return 3 if row["photometric"] in COLOUR_CONVERTED else 1


def by_gdcm(name):
    """Decode a file by gdcm alone, which brings its own copies of all decoders."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(zoo(name)))
    assert reader.Read()
    image = reader.GetImage()
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    form = image.GetPixelFormat()
    sign = "i" if form.GetPixelRepresentation() else "u"
    shape = [image.GetDimension(i) for i in reversed(range(image.GetNumberOfDimensions()))]
    colour = [form.GetSamplesPerPixel()] if form.GetSamplesPerPixel() > 1 else []
    assert image.GetPlanarConfiguration() == 0
    return np.frombuffer(data, dtype=f"<{sign}{form.GetBitsAllocated() // 8}").reshape(
        [*shape, *colour]
    )


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row["file"])
def test_read__gives_the_values_of_the_zoo(row):
    header = header_of(row["file"])
    values = read(header.locator, palette=False)
    assert "x".join(map(str, values.shape)) == row["shape"]
    assert str(values.dtype) == row["dtype"]
    if row["sha1_of_pixels_lossless_only"]:
        digest = hashlib.sha1(values.tobytes(), usedforsecurity=False).hexdigest()
        assert digest == row["sha1_of_pixels_lossless_only"]
    else:
        assert abs(int(values.min()) - int(row["stored_min"])) <= tolerance(row)
        assert abs(int(values.max()) - int(row["stored_max"])) <= tolerance(row)
        return
    assert (int(values.min()), int(values.max())) == (
        int(row["stored_min"]),
        int(row["stored_max"]),
    )


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row["file"])
def test_header__says_what_the_zoo_says(row):
    header = header_of(row["file"])
    assert header.modality == MODALITIES.get(row["modality"], row["modality"])
    assert UID(header.transfer_syntax).name == row["transfer_syntax"]
    assert header.photometric == row["photometric"]


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row["file"])
def test_header__announces_the_shape_and_type_that_read_gives(row):
    header = header_of(row["file"])
    values = read(header.locator)
    assert values.shape == header.shape + ((3,) if header.channels == 3 else ())
    assert str(values.dtype) == header.dtype


def test_zoo__has_six_lossy_files():
    assert {row["transfer_syntax"] for row in LOSSY} == {
        "JPEG 2000 Image Compression",
        "JPEG Baseline (Process 1)",
        "JPEG Extended (Process 2 and 4)",
    }
    assert len(LOSSY) == 6


@pytest.mark.parametrize("row", LOSSY, ids=lambda row: row["file"])
def test_read__lossy_agrees_with_another_decoder_in_every_pixel(row):
    ours = read(Locator(str(zoo(row["file"]))))
    other = by_gdcm(row["file"])
    if row["photometric"] in COLOUR_CONVERTED:
        other = pydicom.pixels.pixel_array(zoo(row["file"]), decoding_plugin="gdcm")
    assert other.shape == ours.shape
    assert other.std() > 1
    assert np.abs(ours.astype(int) - other.astype(int)).max() <= tolerance(row)


def test_read__looks_palette_colours_up():
    dataset = pydicom.dcmread(zoo("examples_palette.dcm"))
    tables = [
        np.frombuffer(dataset[f"{colour}PaletteColorLookupTableData"].value, dtype="<u2")
        for colour in ("Red", "Green", "Blue")
    ]
    expected = np.stack([table[dataset.pixel_array] for table in tables], axis=-1)
    values = read(Locator(str(zoo("examples_palette.dcm"))))
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    "name", ["emri_small_RLE.dcm", "examples_ybr_color.dcm", "SC_rgb_rle_16bit_2frame.dcm",
             "eCT_Supplemental.dcm"]
)  # fmt: skip
def test_read__one_frame_equals_that_frame_of_the_whole(name):
    whole = read(Locator(str(zoo(name))))
    last = len(whole) - 1
    np.testing.assert_array_equal(read(Locator(str(zoo(name)), item=last)), whole[last])


@pytest.mark.parametrize("name", sorted(NOT_IMAGES))
def test_probe__knows_objects_that_are_not_images(name):
    locator = Locator(str(zoo(name)))
    assert list(probe(zoo(name))) == [NonImage(locator, NOT_IMAGES[name])]


def test_probe__finds_truncation_before_decoding():
    (found,) = probe(zoo("MR_truncated.dcm"))
    assert isinstance(found, Problem)
    assert found.reason == "truncated"
    with pytest.raises(PixelError) as caught:
        read(Locator(str(zoo("MR_truncated.dcm"))))
    assert caught.value.problem.reason == "truncated"


@pytest.mark.parametrize(
    "name", ["693_J2KR.dcm", "MR_small_RLE.dcm", "JPEG-LL.dcm", "693_UNCR.dcm"]
)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_probe__finds_truncation_of_every_encoding(tmp_path, name, part):
    data = zoo(name).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * part)])
    (found,) = probe(path)
    assert isinstance(found, Problem)
    assert found.reason == "truncated"


def test_header__records_window_rescale_and_photometric():
    header = header_of("RG3_J2KR.dcm")
    assert header.photometric == "MONOCHROME1"
    assert (header.window_center, header.window_width) == (550, 1024)
    assert header.bits_stored == 10
    ct = header_of("CT_small.dcm")
    assert (ct.slope, ct.intercept) == (1, -1024)
    assert ct.position == (-158.135803, -179.035797, -75.699997)
    assert ct.direction == (1, 0, 0, 0, 1, 0)


def test_header__reads_functional_groups_of_enhanced_objects():
    header = header_of("eCT_Supplemental.dcm")
    assert header.shape == (2, 512, 512)
    assert header.spacing == pytest.approx((10.0, 0.388672, 0.388672))
    assert (header.slope, header.intercept) == (1, -1024)


def test_header__a_spacing_of_zero_is_reported_and_unknown():
    header, finding = probe(zoo("RG1_J2KI.dcm"))
    assert header.spacing is None
    assert finding.reason == "invalid_spacing"


def test_header__marks_secondary_captures():
    assert header_of("SC_rgb_rle.dcm").secondary_capture
    assert not header_of("CT_small.dcm").secondary_capture


def changed(name, tmp_path, **values):
    dataset = pydicom.dcmread(zoo(name))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    path = tmp_path / "changed"
    path.write_bytes(stream.getvalue())
    return list(probe(path))


def test_header__free_text_never_passes_the_vocabularies(tmp_path):
    planted = {
        "BodyPartExamined": "JANE DOE", "ViewPosition": "DOE", "Laterality": "JANE",
        "Modality": "DOE", "SeriesDescription": "JANE DOE scout", "ImageType": ["JANE", "DOE"],
        "VOILUTFunction": "JANE", "BurnedInAnnotation": "JANE", "StudyDescription": "JANE DOE",
    }  # fmt: skip
    header, *_ = changed("CT_small.dcm", tmp_path, **planted)
    assert (header.body_part, header.projection, header.laterality, header.modality) == (
        "other", "other", "other", "other",
    )  # fmt: skip
    assert "JANE" not in repr(header)
    assert "DOE" not in repr(header)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"PixelSpacing": [0, 0.5]}, "invalid_spacing"),
        ({"PixelSpacing": None}, "missing_spacing"),
        ({"RescaleSlope": 0}, "invalid_value"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "invalid_value"),
    ],
)
def test_header__impossible_values_are_dropped_and_reported(tmp_path, values, reason):
    header, finding = changed("CT_small.dcm", tmp_path, **values)
    assert isinstance(header, Header)
    assert finding.reason == reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Rows": 0}, "inconsistent"),
        ({"Rows": 4096}, "truncated"),
        ({"SamplesPerPixel": 7}, "inconsistent"),
    ],
)
def test_probe__an_impossible_image_is_a_problem(tmp_path, values, reason):
    (found,) = changed("CT_small.dcm", tmp_path, **values)
    assert isinstance(found, Problem)
    assert found.reason == reason


def test_probe__an_image_without_pixels_is_a_problem(tmp_path):
    dataset = pydicom.dcmread(zoo("CT_small.dcm"))
    del dataset.PixelData
    dataset.save_as(tmp_path / "bare")
    (found,) = probe(tmp_path / "bare")
    assert found.reason == "no_pixels"


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.22", "report"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "key_objects"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "document"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation_state"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "structure_set"),
        ("1.2.840.10008.5.1.4.1.1.481.5", "plan"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform"),
        ("1.2.840.10008.5.1.4.1.1.66.1", "registration"),
        ("1.2.840.10008.5.1.4.1.1.99.99", "other_object"),
    ],
)
def test_probe__counts_other_classes_by_kind(tmp_path, sop_class, kind):
    dataset = pydicom.dcmread(zoo("CT_small.dcm"))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    del dataset.PixelData
    del dataset.Rows
    dataset.save_as(tmp_path / "object")
    assert [found.kind for found in probe(tmp_path / "object")] == [kind]


@pytest.mark.parametrize("signed", [0, 1])
def test_read__lossless_jpeg_of_twelve_bits_keeps_the_sign(tmp_path, signed):
    rng = np.random.default_rng(4)
    low, high = (-2048, 2048) if signed else (0, 4096)
    values = rng.integers(low, high, (128, 128)).astype(np.int16 if signed else np.uint16)
    stream = imagecodecs.jpeg8_encode(
        values.view(np.uint16) & 0x0FFF, lossless=True, bitspersample=12
    )
    dataset = pydicom.dcmread(zoo("CT_small.dcm"))
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, signed
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.save_as(tmp_path / "x")
    (header,) = probe(tmp_path / "x")
    got = read(header.locator)
    assert str(got.dtype) == header.dtype
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize(("named", "expected"), [(12.5, 12.5), (-90, -90), (73119284, 0)])
def test_header__takes_only_angles_for_a_gantry_tilt(named, expected, tmp_path):
    dataset = pydicom.dcmread(zoo("CT_small.dcm"))
    dataset.GantryDetectorTilt = named
    dataset.save_as(tmp_path / "a.dcm")
    (header,) = probe(tmp_path / "a.dcm")
    assert header.gantry_tilt == expected
