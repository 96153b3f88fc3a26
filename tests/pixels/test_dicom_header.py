"""The own parser against pydicom, field by field."""

import io
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scoutview.pixels.dicom_header import FIRST_READ, parse, starts_like_dicom
from scoutview.pixels.dicom_pydicom import read_with_pydicom
from scoutview.pixels.source import BytesSource

ASSETS = Path(__file__).parents[1] / "assets"
ZOO = sorted((ASSETS / "dicom_zoo" / "files").glob("*.dcm"))
FOR_PYDICOM = {
    "ExplVR_BigEnd.dcm",
    "MR_small_bigendian.dcm",
    "eCT_Supplemental.dcm",
    "image_dfl.dcm",
    "liver.dcm",
    "liver_1frame.dcm",
}


def small_image(**values):
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "CT"
    dataset.PatientID = "P-1"
    dataset.Rows, dataset.Columns = 4, 5
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.PixelData = bytes(40)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def written(dataset, syntax=ExplicitVRLittleEndian, preamble=True):
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    data = stream.getvalue()
    return data if preamble else data[132:]


def both(data):
    source = BytesSource(data)
    return parse(source, source.read_at(0, FIRST_READ)), read_with_pydicom(source)


def assert_same(data):
    ours, oracle = both(data)
    assert ours is not None
    assert ours.fields == oracle.fields
    assert ours.pixels == oracle.pixels


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.name)
def test_parse__equals_pydicom_on_every_file_of_the_zoo(path):
    ours, oracle = both(path.read_bytes())
    if path.name in FOR_PYDICOM:
        assert ours is None
    else:
        assert ours.fields == oracle.fields
        assert ours.pixels == oracle.pixels


def test_parse__equals_pydicom_on_a_series_with_tilt():
    with zipfile.ZipFile(ASSETS / "ct_head" / "ct_head_tilted.zip") as archive:
        for name in archive.namelist():
            assert_same(archive.read(name))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [True, False])
def test_parse__skips_nested_sequences_that_repeat_wanted_tags(syntax, undefined):
    inner, outer = Dataset(), Dataset()
    inner.PatientID, inner.Rows = "WRONG", 999
    inner.is_undefined_length_sequence_item = undefined
    outer.DigitalSignaturesSequence = Sequence([inner, inner])
    outer["DigitalSignaturesSequence"].is_undefined_length = undefined
    outer.PixelSpacing = [9, 9]
    outer.is_undefined_length_sequence_item = undefined
    dataset = small_image(ReferencedImageSequence=Sequence([outer]))
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    data = written(dataset, syntax)
    assert_same(data)
    assert both(data)[0].fields["PatientID"] == "P-1"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_parse__reads_on_behind_a_large_private_element(syntax):
    dataset = small_image()
    dataset.add_new(0x00090010, "LO", "MAKER")
    dataset.add_new(0x00091001, "OB", bytes(300_000))
    assert_same(written(dataset, syntax))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_parse__reads_on_behind_a_sequence_longer_than_the_buffer(syntax):
    item = Dataset()
    item.add_new(0x00090010, "LO", "MAKER")
    item.add_new(0x00091001, "OB", bytes(200_000))
    dataset = small_image(ReferencedImageSequence=Sequence([item]))
    dataset["ReferencedImageSequence"].is_undefined_length = True
    assert_same(written(dataset, syntax))


@pytest.mark.parametrize("filler", range(16_200, 16_400, 7))
def test_parse__does_not_depend_on_where_the_first_read_ends(filler):
    dataset = small_image()
    dataset.add_new(0x00090010, "LO", "MAKER")
    dataset.add_new(0x00091001, "OB", bytes(filler // 2 * 2 - 600))
    assert_same(written(dataset))


def test_parse__leaves_other_alphabets_to_pydicom():
    dataset = small_image(SpecificCharacterSet="ISO_IR 192", PatientID="Ü-1")
    ours, oracle = both(written(dataset))
    assert ours is None
    assert oracle.fields["PatientID"] == "Ü-1"


def test_parse__needs_no_preamble():
    assert_same(written(small_image(), preamble=False))


@pytest.mark.parametrize("cut", range(134, 470, 3))
def test_parse__knows_that_the_file_ends_inside_its_header(cut):
    data = written(small_image())[:cut]
    source = BytesSource(data)
    parsed = parse(source, data)
    assert parsed is None or parsed.pixels is None


def test_starts_like_dicom__refuses_other_formats():
    for start in (b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x08\x00text", b"", b"name,age\n"):
        assert not starts_like_dicom(start + bytes(200))
