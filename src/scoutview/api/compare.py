"""`compare`: runs and studies in; statistics, tables, figures and one results page out."""

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import pandas as pd

from scoutview.base.errors import ConfigError
from scoutview.base.files import atomic_writer, require_empty, write_text
from scoutview.results import display, figures, gallery, training, wording
from scoutview.results.collect import Arm, Collection, collect
from scoutview.results.datasheet import DataSheet, data_sheet
from scoutview.results.display import DisplayTable
from scoutview.results.figures import Picture
from scoutview.results.page import Page, Section, write_page
from scoutview.results.run import RunFolder
from scoutview.results.scores import mean_scores, run_scores, score_display
from scoutview.results.sources import CohortView, open_cohort
from scoutview.results.tables import REPLICATES, Tables, compare_tables

logger = logging.getLogger(__name__)

MOST_MAPS: Final = 3
"""Initialisations whose embeddings are shown."""
MOST_CURVES: Final = 4
"""Arms in a ROC or calibration figure."""


def compare(
    studies_or_runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    title: str = "",
    reference: str | None = None,
    headline_fraction: float | None = None,
    allow_unfinished: bool = False,
    count_copies_once: bool = False,
    replicates: int = REPLICATES,
) -> Path:
    """Compare runs and write tables, figures and one self-contained results page.

    Args:
        studies_or_runs: Folders of studies or single runs.
        out: New folder: `results.html`, `tables/` (CSV, Markdown, LaTeX), `figures/`.
        title: Of the page; by default the study's.
        reference: The initialisation that others must beat; by default the random one.
        headline_fraction: Label fraction of the headline; by default the one nearest to 10 %.
        allow_unfinished: Compare runs that have predictions but did not finish.
        count_copies_once: Count bit-identical repetitions of an arm as one run.
        replicates: Bootstrap draws of test patients.

    Returns:
        The page.

    Raises:
        ConfigError: No study or run is given.
        RunError: `out` has content, or a run is missing or did not finish.
        DataError: The runs cannot be compared honestly; see `results.collect.collect`.
    """
    paths = [studies_or_runs] if isinstance(studies_or_runs, (str, Path)) else studies_or_runs
    if not paths:
        raise ConfigError("compare needs the folder of at least one study or run, got none.")
    collection = collect(
        paths, allow_unfinished=allow_unfinished, count_copies_once=count_copies_once
    )
    for study in collection.studies:
        for name in study.lost_pretrainings():
            where = study.path / study.initialisation(name).run
            logger.warning("%s: no run here, so the page lacks the training of %s.", where, name)
    cohort = open_cohort(collection.studies)
    tables = compare_tables(
        collection,
        reference=reference,
        headline_fraction=headline_fraction,
        patient_ids_known=None if cohort is None else cohort.patient_ids_known,
        replicates=replicates,
    )
    out = require_empty(out)
    of_runs = run_scores(collection.runs)
    of_arms = mean_scores(of_runs)
    page = build_page(collection, tables, cohort, title=title, scores=of_arms)
    _write_tables(out / "tables", tables, page)
    write_text(out / "tables" / "scores.csv", display.to_csv(of_arms))
    write_text(out / "tables" / "run_scores.csv", display.to_csv(of_runs))
    _write_figures(out / "figures", page)
    written = write_page(out / "results.html", page)
    logger.info("%s", page.headline)
    return written


def build_page(
    collection: Collection,
    tables: Tables,
    cohort: CohortView | None,
    *,
    title: str = "",
    scores: pd.DataFrame | None = None,
) -> Page:
    """Put the page together; sections without data are left out."""
    shown = _shown(collection.arms, tables)
    sections = [
        _fractions(collection, tables),
        _who_differs(tables),
        _training(collection),
        _roc(collection, tables, shown),
        _scores(scores),
        _maps(collection, tables, cohort),
        _neighbours(collection, tables, cohort),
        _data(collection, cohort),
        _provenance(collection),
        _all_runs(tables),
    ]
    return Page(
        title=title or collection.title,
        subtitle=_subtitle(collection),
        headline=wording.headline(tables),
        headline_table=display.headline_table(tables),
        findings=tuple(wording.findings(collection, tables)),
        notes=tables.notes,
        sections=tuple(section for section in sections if section is not None),
    )


def _shown(arms: Sequence[Arm], tables: Tables) -> list[Arm]:
    """Best, reference, supervised, then the rest, at most `MOST_CURVES`: more hide each other."""
    at_headline = [a for a in arms if tables.cell(a.name, tables.headline_fraction)]
    rank = {tables.best: 0, tables.reference: 1}
    ordered = sorted(at_headline, key=lambda a: rank.get(a.name, 2 if not a.pretrained else 3))
    return ordered[:MOST_CURVES]


def _subtitle(collection: Collection) -> str:
    tasks = sorted({study.content.task.replace("_", " ") for study in collection.studies})
    cohorts = sorted({study.cohort.resolve().name for study in collection.studies})
    parts = [f"{len(collection.runs)} runs of {len(collection.arms)} initialisations"]
    if tasks:
        parts.insert(0, f"Task: {', '.join(tasks)}")
        parts.append(f"cohort “{', '.join(cohorts)}”")
    parts.append(datetime.now(UTC).strftime("%d %B %Y"))
    return " · ".join(parts)


# -------------------------------------------------------------------- sections


def _fractions(collection: Collection, tables: Tables) -> Section | None:
    if len(collection.fractions) < 2:
        return None
    return Section(
        name="label-fractions",
        title="How many labels are needed",
        pictures=(figures.label_fraction_curves(tables, collection.arms),),
        tables=(display.fraction_table(tables),),
    )


def _who_differs(tables: Tables) -> Section | None:
    if not tables.pairs:
        return None
    return Section(
        name="differences",
        title="Who differs from whom",
        tables=(display.difference_matrix(tables),),
        folded=(("All comparisons with all tests", (display.pair_table(tables),)),),
    )


def _training(collection: Collection) -> Section | None:
    curves = {arm: run.metrics() for arm, run in training.pretraining_runs(collection).items()}
    curves = {arm: metrics for arm, metrics in curves.items() if len(metrics) > 1}
    drawn = [
        key
        for key in training.MEASURES
        if any(key in m and m[key].notna().sum() > 1 for m in curves.values())
    ]
    if not drawn:
        return None
    probe, found = training.convergence(curves)
    converged = {c.arm: c.epoch for c in found if c.known}
    pictures = [
        figures.training_curve(
            curves,
            collection.arms,
            key,
            training.MEASURES[key],
            converged=converged if key == probe else None,
        )
        for key in drawn
    ]
    return Section(
        name="training",
        title="Pre-training",
        text=("Losses of different methods are on different scales and cannot be compared.",),
        pictures=tuple(pictures),
        tables=(training.convergence_table(probe, found),) if found else (),
        small=True,
    )


def _roc(collection: Collection, tables: Tables, shown: Sequence[Arm]) -> Section:
    return Section(
        name="roc",
        title="ROC and calibration",
        pictures=(
            *figures.roc_curves(collection, tables, shown),
            *figures.calibration_curves(collection, tables, shown),
        ),
        tables=(display.calibration_table(collection, tables),),
        small=True,
    )


def _scores(means: pd.DataFrame | None) -> Section | None:
    if means is None:
        return None
    return Section(
        name="scores",
        title="Other scores",
        folded=(("Accuracy, precision, sensitivity, calibration", (score_display(means),)),),
    )


Embedded = tuple[str, pd.DataFrame, np.ndarray[Any, np.dtype[np.float32]]]


def _embedded(collection: Collection, tables: Tables) -> list[Embedded]:
    """Embeddings of the best arm, the reference, and others, at most `MOST_MAPS`."""
    rank = {tables.best: 0, tables.reference: 1}
    found: dict[str, Embedded] = {}
    for study in collection.studies:
        for arm in collection.arms:
            name = arm.initialisation.name
            if name in found or name not in {i.name for i in study.content.initialisations}:
                continue
            embeddings = study.embeddings(name)
            if embeddings is not None:
                found[name] = (arm.name, *embeddings)
    return sorted(found.values(), key=lambda e: rank.get(e[0], 2))[:MOST_MAPS]


def _maps(collection: Collection, tables: Tables, cohort: CohortView | None) -> Section | None:
    pictures = []
    for arm, rows, features in _embedded(collection, tables):
        test = (rows["split"] == "test").to_numpy()
        if cohort is None or test.sum() < 10:
            continue
        own = rows[test].reset_index(drop=True)
        classes = cohort.classes(own["image_id"])
        pictures.append(gallery.embedding_map(arm, own, features[test], classes, cohort.images))
    if not pictures:
        return None
    return Section(name="map", title="Map of the embeddings", pictures=tuple(pictures), small=True)


def _neighbours(
    collection: Collection, tables: Tables, cohort: CohortView | None
) -> Section | None:
    if cohort is None or cohort.images is None:
        return None
    pictures = []
    for arm, rows, features in _embedded(collection, tables):
        classes = cohort.classes(rows["image_id"])
        grid = gallery.neighbour_grid(arm, rows, features, classes, cohort.images)
        if grid is not None:
            pictures.append(grid)
    if not pictures:
        return None
    return Section(
        name="neighbours",
        title="Nearest neighbours of real images",
        text=("What a backbone holds to be alike: the same random test images for each.",),
        pictures=tuple(pictures),
        small=True,
    )


def _data(collection: Collection, cohort: CohortView | None) -> Section | None:
    if cohort is None:
        return None
    details = [study.content.details for study in collection.studies]
    sheet: DataSheet = data_sheet(
        cohort.table,
        cohort.labels,
        patient_ids_known=cohort.patient_ids_known,
        dropped=[entry for d in details for entry in d.get("dropped_duplicates", [])],
        problems=cohort.problems,
        searched=any("dropped_duplicates" in d for d in details),
    )
    return Section(name="data", title="Data sheet of the cohort", sheet=sheet)


def _provenance(collection: Collection) -> Section:
    pretraining = training.pretraining_runs(collection)
    folders = [*pretraining.values(), *(run.folder for run in collection.runs)]
    environments = [folder.environment for folder in folders]
    packages = [e.get("packages", {}) for e in environments]
    names = sorted({name for found in packages for name in found})
    times = [run.summary.get("time_s") for run in collection.runs]
    facts = [
        ("commit", _distinct(e.get("commit", "") for e in environments)),
        ("hardware", _distinct(_hardware(e) for e in environments)),
        (
            "system",
            _distinct(f"Python {e.get('python')}, {e.get('platform')}" for e in environments),
        ),
        *((name, _distinct(found.get(name, "") for found in packages)) for name in names),
        ("runs started", _span(str(e.get("time", "")) for e in environments)),
    ]
    if known := [float(t) for t in times if t is not None]:
        facts.append(("time of transfer", _transfer_time(collection, known)))
    code = [(f"Configuration of {arm}", _readable(run.config)) for arm, run in pretraining.items()]
    first = {run.arm: run for run in reversed(collection.runs)}
    code += [
        (f"Configuration of a transfer run: {arm}", _readable(run.folder.config))
        for arm, run in first.items()
    ]
    return Section(
        name="provenance",
        title="Provenance",
        facts=tuple(facts),
        tables=(_pretraining_table(pretraining),) if pretraining else (),
        code=tuple(code),
    )


def _transfer_time(collection: Collection, times: Sequence[float]) -> str:
    """Sum the time of runs; what classifiers are trained on is computed once, before them."""
    text = f"{training.duration(sum(times))} in {len(times)} runs"
    simple = {"linear_probe", "logistic_regression", "random_forest"}
    if simple.isdisjoint(arm.method for arm in collection.arms):
        return text
    return f"{text}, without reading images and computing features"


def _pretraining_table(runs: dict[str, RunFolder]) -> DisplayTable:
    rows = []
    for arm, run in runs.items():
        metrics = run.metrics()
        last = metrics.iloc[-1] if len(metrics) else None
        summary = run.summary() if run.finished else {}
        seen = summary.get("samples_seen", None if last is None else last["samples_seen"])
        time = summary.get("time_s", None if last is None else last["time_s"])
        rows.append(
            (
                arm,
                _method(run.config),
                str(run.config.get("seed", display.MISSING)),
                display.MISSING if seen is None else f"{int(seen):,}",
                display.MISSING if time is None else training.duration(float(time)),
                run.status,
            )
        )
    return DisplayTable(
        name="pretraining",
        caption="Pre-training runs. Each is one training; its own seed is not varied.",
        columns=("initialisation", "method", "seed", "images seen", "time", "status"),
        align=("left", "left", "right", "right", "right", "left"),
        rows=tuple(rows),
    )


def _method(config: dict[str, Any]) -> str:
    """Name of the method, which a configuration gives alone or with the method's settings."""
    method = config.get("method", display.MISSING)
    return str(method["name"] if isinstance(method, dict) else method)


def _all_runs(tables: Tables) -> Section:
    return Section(
        name="runs",
        title="Every run",
        folded=((f"{len(tables.runs)} rows", (display.run_table(tables),)),),
    )


def _hardware(environment: dict[str, Any]) -> str:
    gpus = ", ".join(environment.get("gpus", []))
    cores = f"{environment.get('cores', '?')} cores"
    return ", ".join(filter(None, [str(environment.get("cpu", "")), cores, gpus]))


def _distinct(values: Iterable[str]) -> str:
    found = [value or "not known" for value in dict.fromkeys(values)]
    return "; ".join(found)


def _span(times: Iterable[str]) -> str:
    known = sorted(filter(None, times))
    if not known:
        return "not known"
    return known[0] if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def _readable(config: dict[str, Any]) -> str:
    return json.dumps(_without_places(config), indent=2, ensure_ascii=False, default=str)


def _without_places(value: Any) -> Any:
    """Keep only the last name of paths: the page is passed on, the names of folders are not."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_places(item) for item in value]
    place = PurePath(value) if isinstance(value, str) else PurePath()
    if place.is_absolute() or ".." in place.parts:
        return f"…/{place.name}"
    return value


# -------------------------------------------------------------------- files


def _write_tables(folder: Path, tables: Tables, page: Page) -> None:
    folder.mkdir()
    tidy = {
        "summary": tables.summary(),
        "comparisons": tables.comparisons(),
        "runs": tables.runs,
    }
    for name, numbers in tidy.items():
        write_text(folder / f"{name}.csv", display.to_csv(numbers))
    shown = [page.headline_table]
    for section in page.sections:
        shown += [*section.tables, *(t for _, group in section.folded for t in group)]
        if section.sheet is not None:
            shown += section.sheet.tables
    for table in shown:
        write_text(folder / f"{table.name}.md", display.to_markdown(table))
        write_text(folder / f"{table.name}.tex", display.to_latex(table))


def _write_figures(folder: Path, page: Page) -> None:
    folder.mkdir()
    pictures: list[Picture] = [p for section in page.sections for p in section.pictures]
    for picture in pictures:
        with atomic_writer(folder / f"{picture.name}.{picture.kind}") as stream:
            stream.write(picture.data)
