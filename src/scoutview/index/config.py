"""Settings of `index`: what to join, how to split, how to run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from scoutview.base.config import Config
from scoutview.pixels import vocabulary

BoxFormat = Literal["csv", "coco", "yolo", "voc"]


def _as_text(value: object) -> object:
    """Take a number as it stands in a table: YAML reads a year as one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


Word = Annotated[str, BeforeValidator(_as_text)]
"""A value of a table's column; numbers count as text."""


class LabelColumn(Config):
    """One column of a label table that is more than 0, 1 and missing."""

    name: str
    """Column in the table."""
    kind: Literal["binary", "multiclass", "multilabel"] = "multiclass"
    """"multilabel" splits a cell such as "Nodule|Mass" into one binary label per finding."""
    classes: tuple[Word, ...] = ()
    """The values that may occur; empty takes those that do."""
    separator: str = "|"
    """Between the findings of one cell, for "multilabel"."""
    negative: str = "No Finding"
    """The word of a "multilabel" cell that means that no finding is present."""


class LabelTable(Config):
    """A CSV, TSV or Parquet table of labels."""

    table: Path
    """The file."""
    id_column: str | None = None
    """Column with ids of images, series, studies or patients; None takes the best match."""
    columns: tuple[str | LabelColumn, ...] = ()
    """Label columns; empty takes those of 0, 1, missing and uncertain (-1, u) that vary."""
    keep: tuple[str, ...] = ()
    """Columns of categories that are no labels, as a site or a year: kept as they are in the index,
    to split, stratify and choose by. Name none whose values must not be shared."""
    patient_column: str | None = None
    """Column with patient ids, for files that carry none; None takes one that is called so, as
    "Patient ID" or "subject", "" takes none."""
    split_column: str | None = None
    """Column with train, val or test."""


class BoxSource(Config):
    """A file, or a folder of files, with bounding boxes."""

    path: Path
    """CSV or COCO file, or the folder of YOLO or Pascal VOC files."""
    format: BoxFormat
    """How boxes are written there."""
    classes: tuple[str, ...] = ()
    """Names of YOLO class numbers, in order; empty reads `classes.txt` beside the files."""
    id_column: str | None = None
    """CSV: column with image ids; None takes the one that matches most."""
    label_column: str = "class"
    """CSV: column with the class name."""
    corners: tuple[str, str, str, str] = ("ymin", "xmin", "ymax", "xmax")
    """CSV: columns of the corners, top, left, bottom, right, in pixels."""
    one_based: bool = True
    """VOC: corners count pixels from 1 and include the last one, as the original set does."""


class LabelmapFolder(Config):
    """A folder of labelmaps, matched to images by file stem."""

    folder: Path
    """Searched with its sub-folders; its files are not indexed as images."""
    suffix: str = ""
    """What follows the image's stem in the labelmap's, as "_seg"."""
    names: dict[int, str] = Field(default_factory=dict)
    """Names of the values, as {1: "right lung"}."""


class ReportTable(Config):
    """Report text, from a table or from a folder of .txt files named like the images."""

    path: Path
    """CSV, TSV or Parquet file, or a folder."""
    id_column: str | None = None
    """Column with ids; None takes the one that matches most."""
    text_column: str = "text"
    """Column with the report."""


class SourceSplit(Config):
    """The split that the source has: in its files or in a table's `split_column`."""

    kind: Literal["source"] = "source"
    allow_patient_overlap: bool = False
    """Accept patients that stand in more than one part; results will say so."""


class HoldOut(Config):
    """A random split of the patients into train, val and test."""

    kind: Literal["holdout"] = "holdout"
    val: float = Field(0.1, ge=0, lt=1)
    """Fraction of patients in val."""
    test: float = Field(0.2, ge=0, lt=1)
    """Fraction of patients in test."""
    stratify: tuple[str, ...] = ()
    """Columns whose values are spread evenly over the parts."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "HoldOut":
        if self.val + self.test >= 1:
            raise ValueError("val and test together must leave something for train")
        return self


class KFold(Config):
    """Folds over the patients; images of the source's test part stay outside."""

    kind: Literal["kfold"] = "kfold"
    folds: int = Field(5, ge=2)
    stratify: tuple[str, ...] = ()
    """Columns whose values are spread evenly over the folds."""
    seed: int = Field(0, ge=0)


class ColumnSplit(Config):
    """The parts are named by the values of a column of the index, or of a label table's `keep`."""

    kind: Literal["column"] = "column"
    column: str
    train: tuple[Word, ...] = ()
    """Values that go to train."""
    val: tuple[Word, ...] = ()
    test: tuple[Word, ...] = ()
    allow_patient_overlap: bool = False
    """Accept patients that stand in more than one part; results will say so."""


Split = Annotated[SourceSplit | HoldOut | KFold | ColumnSplit, Field(discriminator="kind")]


class IndexConfig(Config):
    """How a cohort is made."""

    labels: tuple[LabelTable, ...] = ()
    boxes: tuple[BoxSource, ...] = ()
    labelmaps: LabelmapFolder | None = None
    reports: ReportTable | None = None
    split: Split = SourceSplit()
    label_names: dict[str, str] = Field(default={})
    """Names for labels that travel inside the files, as {"label": "pneumonia"}."""
    modality: str | None = None
    """Modality of images whose files do not say it (npz, PNG, NIfTI), as "DX"."""
    body_part: str | None = None
    """Body part of images whose files do not say it, as "chest"."""
    key_file: Path | None = None
    """Share pseudonyms, and so splits and random views, between cohorts; made when missing."""
    strict: bool = False
    """Any problem is an error."""
    workers: int | None = Field(None, ge=1)
    """Processes; None takes one per core."""

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, word: str | None) -> str | None:
        return _known(word, vocabulary.MODALITIES)

    @field_validator("body_part")
    @classmethod
    def _known_body_part(cls, word: str | None) -> str | None:
        return _known(word, vocabulary.BODY_PARTS)


def _known(word: str | None, words: Sequence[str]) -> str | None:
    if word is not None and word not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return word
