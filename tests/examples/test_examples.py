"""Every example runs, short, on bundled data, and shows what it promises."""

import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return str(capsys.readouterr().out)

    return call


def test_examples__are_short_and_guarded():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.stem for file in files] == [
        "compare_two_models",
        "index_and_show",
        "pretrain_and_transfer",
    ]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 80, file.name
        assert text.endswith('if __name__ == "__main__":\n    main()\n'), file.name


def test_index_and_show__finds_the_tilted_head(run, tmp_path):
    shown = run("index_and_show", ROOT / "tests" / "assets" / "ct_head", "--out", "out")
    assert "28 slices" in shown
    assert "gantry tilt 18.5 degrees" in shown
    assert "2 problems" in shown
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("quarter_of_the_set")
def test_pretrain_and_transfer__ends_with_table_and_page(run, tmp_path):
    shown = run("pretrain_and_transfer", "--out", "out", "--samples", 5120, "--seeds", 2)
    assert re.search(r"\| simclr \| 2 \| 0\.\d{3} \|", shown)
    assert re.search(r"\| random \| 2 \| 0\.\d{3} \|", shown)
    assert (tmp_path / "out" / "results" / "results.html").is_file()


def test_compare_two_models__agrees_on_both_tests(run):
    shown = run("compare_two_models", "--images", 300, "--replicates", 200)
    first, second = (float(x) for x in re.findall(r"a - b: ([+-]0\.\d{3})", shown))
    assert first == second  # the same difference of AUC, from DeLong and from the bootstrap
    assert "paired DeLong" in shown
    assert "paired bootstrap" in shown


def test_compare_two_models__reads_tables(run, tmp_path):
    table = pd.DataFrame(
        {
            "image_id": list("abcdefgh"),
            "patient_id": list("abcdefgh"),
            "split": "test",
            "target": [0.0, 1.0] * 4,
            "score": [0.1, 0.9, 0.2, 0.4, 0.3, 0.8, 0.6, 0.7],
        }
    )
    table.to_parquet(tmp_path / "a.parquet")
    table.assign(score=1 - table["score"]).to_parquet(tmp_path / "b.parquet")
    shown = run("compare_two_models", "a.parquet", "b.parquet", "--replicates", 100)
    # one of 16 pairs (0.6 above 0.4) is in the wrong order
    assert "model a: AUC 0.938" in shown
    assert "model b: AUC 0.062" in shown
