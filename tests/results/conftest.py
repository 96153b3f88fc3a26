"""A results page of a realistic study, made once."""

import pytest
from tests.results.synthetic import cohort_view, make_study

from scoutview.api.compare import build_page
from scoutview.results.collect import collect
from scoutview.results.page import write_page
from scoutview.results.tables import compare_tables


@pytest.fixture(scope="session")
def results_page(tmp_path_factory):
    """Path of a page with every section."""
    folder = tmp_path_factory.mktemp("page")
    study = make_study(folder, images=120, seeds=3, embedded=150)
    collection = collect([study.path])
    tables = compare_tables(collection, patient_ids_known=False, replicates=50)
    page = build_page(collection, tables, cohort_view())
    return write_page(folder / "results.html", page)
