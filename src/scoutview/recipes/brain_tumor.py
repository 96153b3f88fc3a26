"""Brain tumours on MR slices, read from a folder: 990 slices, three classes, one box each.

Cheng et al., 2015, PLoS ONE 10(10):e0140381; figshare doi 10.6084/m9.figshare.1512427, CC BY 4.0.
"""

from pathlib import Path

from scoutview.api.index import index
from scoutview.index.config import BoxSource, IndexConfig, LabelColumn, LabelTable


def brain_tumor(source: str | Path, folder: str | Path) -> Path:
    """Index a folder of slices with its `annotations.csv`; call it again, nothing is done twice.

    Args:
        source: Folder with `images/N.jpg` and `annotations.csv` (image, split, class and box
            corners in pixels).
        folder: Where the cohort will be.

    Returns:
        The cohort, with the label "class" (meningioma, glioma, pituitary), the boxes, and the split
        of the table. There are no patient ids.
    """
    source = Path(source)
    table = source / "annotations.csv"
    config = IndexConfig(
        labels=(
            LabelTable(table=table, columns=(LabelColumn(name="class"),), split_column="split"),
        ),
        boxes=(BoxSource(path=table, format="csv"),),
        modality="MR",
        body_part="head",
    )
    return index(source / "images", folder, config=config)
