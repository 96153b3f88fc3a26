import hashlib
import hmac
import logging
import re
import stat
import warnings
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom.datadict import DicomDictionary, keyword_for_tag
from tests.index.dicoms import dataset

from scoutview.base.errors import ConfigError, DataError, ScoutviewError
from scoutview.index import build as build_module
from scoutview.index.build import build_cohort
from scoutview.index.config import IndexConfig, LabelTable
from scoutview.index.privacy import (
    fingerprint,
    image_key,
    key_from_file,
    new_key,
    pseudonym,
    without_names,
    word,
)
from scoutview.index.summary import render, summarise

NAME, DATE, STREET = "QUIXOTE", "19470313", "Windmuehlgasse"
TIME, AGE = "073119.284", "073Y"
SECRETS = (NAME, DATE, STREET, NAME.title(), "1947-03-13", "73119284", TIME, "07:31:19")
_AGE = re.compile(rf"(?<![0-9A-Za-z]){AGE}(?![0-9A-Za-z])")
"""Four letters stand in random bytes by chance, but not as a word."""


def test_pseudonym__is_the_hmac_of_kind_and_id():
    key = bytes(range(32))
    want = hmac.new(key, b"patient|P-1", hashlib.sha256).hexdigest()[:16]
    assert pseudonym(key, "patient", "P-1") == want
    assert pseudonym(key, "patient", "") == ""
    assert pseudonym(key, "study", "P-1") != want
    assert pseudonym(b"x" * 32, "patient", "P-1") != want
    assert image_key(want) == int(want, 16) // 2
    assert 0 <= image_key("f" * 16) < 2**63


def test_key_from_file__makes_a_private_file_and_reads_it_again(tmp_path):
    path = tmp_path / "keys" / "mine"
    key = key_from_file(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_from_file(path) == key
    assert fingerprint(key) not in key.hex()
    assert new_key() != new_key()


def test_key_from_file__refuses_open_or_damaged_files(tmp_path):
    path = tmp_path / "key"
    key_from_file(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        key_from_file(path)
    path.chmod(0o600)
    path.write_text("abc")
    with pytest.raises(DataError, match="64 hex digits"):
        key_from_file(path)
    path.write_text("abcd")
    with pytest.raises(DataError, match="32 bytes, got 2"):
        key_from_file(path)


def test_key_from_file__says_that_a_folder_is_no_key(tmp_path):
    with pytest.raises(ConfigError, match="must be a file, but a folder came"):
        key_from_file(tmp_path)


def test_word__lets_only_known_words_pass():
    assert word("modality", "CT") == "CT"
    assert word("modality", NAME) == "other"
    assert word("transfer_syntax", "1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"
    assert word("transfer_syntax", "1.2.19470313") == "other"
    assert word("dtype", "uint16") == "uint16"


def test_without_names__takes_every_part_of_a_path_out():
    text = f"cannot open /data/{NAME}/scan 1.dcm in {NAME}"
    assert without_names(text, f"/data/{NAME}/scan 1.dcm") == "cannot open <file> in <file>"


def _text(representation):
    """A secret that fits a value representation."""
    return {
        "PN": f"{NAME}^DON",
        "DA": DATE,
        "DT": f"{DATE}120000",
        "TM": TIME,
        "AS": AGE,
        "CS": NAME,
        "AE": NAME,
        "SH": f"{NAME} {DATE}",
        "LO": f"{NAME}, {STREET} 7, {DATE}",
        "ST": f"{NAME} of {STREET}",
        "LT": f"{NAME} of {STREET}",
        "UT": f"{NAME} of {STREET}",
        "UC": f"{NAME} of {STREET}",
        "UR": f"http://{NAME}/{DATE}",
    }.get(representation)


def _planted(keep=()):
    """A slice with a secret in every text field of the standard, and in private ones."""
    ds = dataset()
    for tag, (representation, *_rest, retired, keyword) in DicomDictionary.items():
        text = _text(representation)
        if tag >> 16 in (0x0000, 0x0002) or text is None or retired or not keyword:
            continue
        if keyword not in keep:
            ds.add_new(tag, representation, text)
    block = ds.private_block(0x0019, NAME, create=True)
    block.add_new(0x01, "LO", f"{NAME} {STREET}")
    ds.PatientID = "73119284"
    ds.SpecificCharacterSet = "ISO_IR 100"
    assert keyword_for_tag(0x00100010) == "PatientName"
    assert ds.PatientName == f"{NAME}^DON"
    return ds


READABLE = ("Modality", "ImageType", "PhotometricInterpretation", "BurnedInAnnotation")


def _sources(tmp_path):
    """Real readers see every way in which a secret can reach them."""
    folder = tmp_path / f"{NAME}_{DATE}" / STREET
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, keep in enumerate([(), READABLE, READABLE]):
            ds = _planted(keep)
            if keep:
                ds.BurnedInAnnotation = "YES"
            ds.SOPInstanceUID = f"1.2.3.{DATE}.{n}"
            ds.SeriesInstanceUID = f"1.2.3.{DATE}"
            ds.InstanceNumber = n
            ds.ImagePositionPatient = [0, 0, 2.0 * n]
            ds.save_as(folder / f"{NAME}{n}.dcm", enforce_file_format=False)
        whole = (folder / f"{NAME}2.dcm").read_bytes()
    (folder / f"{NAME}_cut.dcm").write_bytes(whole[:-64])
    (folder / f"{NAME}_cut.nii.gz").write_bytes(b"\x1f\x8b\x08 not a volume")
    (folder / f"{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + NAME.encode())
    (folder / f"{NAME}_{DATE}.txt").write_text(f"{NAME} lives in {STREET}")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / f"{STREET}.png")
    with zipfile.ZipFile(folder / f"{NAME}.zip", "w") as archive:
        archive.writestr(f"{NAME}/{STREET}.dcm", whole.replace(b".19470313.2", b".19470313.9"))
        archive.writestr(f"{NAME}/bad.dcm", whole[:200])
        archive.writestr(f"{NAME}/bad.png", b"\x89PNG\r\n\x1a\n")
    (folder / f"{NAME}_bad.zip").write_bytes(b"PK\x03\x04" + NAME.encode())
    (folder / f"{NAME}_gone.dcm").symlink_to(folder / f"{NAME}_nowhere")
    return tmp_path / f"{NAME}_{DATE}"


def _everything(folder):
    """All that a cohort folder shows to others, compressed tables in clear as well."""
    for path in folder.rglob("*"):
        yield path.name
        if path.is_dir() or path.name == "private.parquet":
            continue
        yield path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield str(table.to_pydict())
            yield str(table.schema.metadata)


def test_planted__holds_a_secret_of_every_kind_in_every_file(tmp_path):
    for path in _sources(tmp_path).rglob(f"{NAME}?.dcm"):
        content = path.read_bytes().decode("latin-1")
        assert [secret for secret in (NAME, DATE, STREET, TIME) if secret not in content] == []
        assert len(_AGE.findall(content)) + content.count(f"AS\4\0{AGE}") >= 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.ddp)])
def test_privacy__no_planted_secret_leaves_the_private_file(
    tmp_path, caplog, capfd, monkeypatch, workers
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(build_module, "START_SECONDS", 0.0)
    monkeypatch.setattr(build_module, "_CHUNK", 3)
    source = _sources(tmp_path)
    cohort = build_cohort([source], tmp_path / "c", IndexConfig(workers=workers))
    table = cohort.table
    assert set(table["modality"]) == {"CT", "other", "unknown"}
    assert (table["burned_in"] == "yes").any()
    assert sum(cohort.content["counts"]["problems"].values()) >= 4
    shown = [*_everything(cohort.folder), caplog.text, render(summarise(cohort)), repr(cohort)]
    shown += capfd.readouterr()  # also what worker processes print
    private = str(pq.read_table(cohort.folder / "private.parquet").to_pydict())
    assert NAME in private, "the secrets must have been where the readers look"
    assert "73119284" in private
    for text in shown:
        assert [secret for secret in SECRETS if secret in text] == []
        assert not _AGE.search(text)


def test_privacy__errors_do_not_show_ids_or_folders(tmp_path, caplog):
    source = _sources(tmp_path)
    labels = tmp_path / f"{NAME}.csv"
    messages = []
    for text in (
        f"id,sick\n{NAME}-1,1\n{NAME}-2,0\n",
        f"id,sick\n{STREET},1\n{STREET},0\n",
        f"id,sick\n{STREET},{NAME}\n",
        "",
    ):
        labels.write_text(text)
        config = IndexConfig(workers=1, labels=(LabelTable(table=labels, columns=("sick",)),))
        try:
            build_cohort([source], tmp_path / "c", config)
        except ScoutviewError as error:
            messages.append(str(error))
    with pytest.raises(ScoutviewError) as strict:
        build_cohort([source], tmp_path / "d", IndexConfig(workers=1, strict=True))
    with pytest.raises(ScoutviewError) as missing:
        build_cohort([source / NAME], tmp_path / "e", IndexConfig(workers=1))
    messages += [str(strict.value), str(missing.value)]
    assert len(messages) == 5
    for secret in SECRETS:
        assert all(secret not in text for text in [*messages, caplog.text])
