"""What a user does wrong ends with status 2 and one line that says what to do."""

import subprocess
import sys

import pytest
from tests.cohorts import radiograph_cohort
from tests.command_line import scoutview

from scoutview.api.pretrain import PretrainConfig
from scoutview.api.transfer import TransferConfig
from scoutview.base.errors import ScoutviewError
from scoutview.cli import main
from scoutview.methods.hybrid import HybridConfig


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return radiograph_cohort(tmp_path_factory.mktemp("errors"), {"train": 8, "val": 4, "test": 4})


def refused(capsys, *arguments):
    """Run, and return the one line that it ends with."""
    assert scoutview(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    own = [line for line in lines if line.startswith("scoutview: ")]
    assert own == lines[-1:], "one line, and the last one"
    assert not any("Traceback" in line for line in lines)
    return own[0]


def test_pretrain__suggests_the_nearest_method(cohort, tmp_path, capsys):
    line = refused(capsys, "pretrain", cohort, "--method", "simcrl", "--out", tmp_path / "run")
    assert "Unknown method 'simcrl'. Did you mean 'simclr'?" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("bakbone.name=resnet18", "backbone"),
        ("backbone.nme=resnet18", "backbone.name"),
        ("log_every_=1", "log_every"),
        ("data.slice.kind=all", "data.slices"),
    ],
)
def test_set__names_the_nearest_setting(setting, nearest, cohort, tmp_path, capsys):
    words = ("--method", "byol", "--out", tmp_path / "run", "--set", setting)
    line = refused(capsys, "pretrain", cohort, *words)
    assert f"Did you mean {nearest!r}?" in line


def test_method_set__names_the_nearest_setting_of_the_method(cohort, tmp_path, capsys):
    words = ("--method", "simclr", "--out", tmp_path / "run", "--method-set", "temperature_=0.2")
    assert "Did you mean 'temperature'?" in refused(capsys, "pretrain", cohort, *words)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "Unknown command"),
        (("pretrian", "x"), "Did you mean"),
        (("show", "x", "--wherever", "a"), "--wherever"),
        (("index",), "--out"),
        (("store", "nowhere"), "not a cohort"),
        (("pretrain", "nowhere", "--method", "byol", "--out", "o"), "not a cohort"),
        (("pretrain", "nowhere"), "--method"),
        (("pretrain", "--resume", "nowhere"), "no run here"),
        (("transfer", "nowhere", "--out", "o"), "not a cohort"),
        (("embed", "nowhere", "nothing", "--out", "o"), "nothing"),
        (("compare", "nowhere", "--out", "o"), "no run here"),
        (("export", "nowhere", "--out", "o"), "no run here"),
        (("experiment", "nowhere", "--out", "o", "--config", "none.yaml"), "none.yaml"),
        (("store", "x", "--max-side", "2"), "max_side"),
        (("transfer", "x", "--out", "o", "--set", "seeds"), "key=value"),
        (("transfer", "x", "--out", "o", "--set", "seeds=[1"), "seeds: expected YAML"),
        (("transfer", "x", "--out", "o", "--set", "mode.epochs=3"), "mode.linear_probe.epochs"),
        (("transfer", "x", "--out", "o", "--fraction", "1.5"), "fraction"),
        (("transfer", "x", "--out", "o", "--seed", "-1"), "greater than or equal to 0, got -1"),
        (("transfer", "x", "--out", "o", "--set", "folds=[-1]"), "greater than or equal to 0"),
        (
            ("embed", "x", "y", "--out", "o", "--batch-size", "0"),
            "batch_size and part must be >= 1",
        ),
        (("compare", "--out", "o"), "compare needs the folder of at least one study or run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input__ends_with_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_transfer__names_the_nearest_task_and_refuses_unknown_starts(cohort, tmp_path, capsys):
    words = ("transfer", cohort, "--out", tmp_path / "s")
    assert "Did you mean 'classification'" in refused(capsys, *words, "--task", "classify")
    assert "neither a run folder" in refused(capsys, *words, "--init", "imagenette")
    assert not (tmp_path / "s").exists()


def test_index__says_that_a_folder_holds_no_image(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.txt").write_text("no image")
    (tmp_path / "in" / "noise.dcm").write_bytes(bytes(range(256)) * 8)
    line = refused(capsys, "index", tmp_path / "in", "--out", tmp_path / "c")
    assert "image" in line
    assert not (tmp_path / "c" / "cohort.json").exists()


def test_settings_file__that_is_no_mapping_is_refused(cohort, tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    words = ("pretrain", cohort, "--method", "byol", "--out", tmp_path / "run", "--config", file)
    for content, said in (("- 1\n", "expected keys and values"), ("a: [1\n", "line 2"), ("", "")):
        file.write_text(content)
        assert said in refused(capsys, *words)


def test_system_errors__name_no_file(cohort, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "/scans/QUIXOTE.dcm")

    monkeypatch.setattr("scoutview.api.store.build_store", full)
    line = refused(capsys, "store", cohort)
    assert "No space left on device" in line
    assert "QUIXOTE" not in line


def test_traceback__comes_on_request(monkeypatch):
    monkeypatch.setenv("SCOUTVIEW_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["scoutview", "show", "nowhere"])
    with pytest.raises(ScoutviewError):
        main()


def test_module__is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "scoutview", "show", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("scoutview: nowhere is not a cohort")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["pretrain", "transfer"])
def test_help__states_the_defaults_of_the_settings(verb, capsys):
    assert scoutview(verb, "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    config = {"pretrain": PretrainConfig, "transfer": TransferConfig}[verb]()
    defaults = {
        "pretrain": {
            "--backbone": config.backbone.name if verb == "pretrain" else "",
            "--epochs": getattr(config, "epochs", ""),
            "--batch-size": config.batch_size,
            "--seed": getattr(config, "seed", ""),
            "--devices": getattr(config, "devices", ""),
            "--num-nodes": getattr(config, "num_nodes", ""),
            "--precision": getattr(config, "precision", ""),
            "--hybrid-alpha": HybridConfig().alpha,
            "--hybrid-beta": HybridConfig().beta,
        },
        "transfer": {"--fraction": getattr(config, "fractions", ("",))[0]},
    }[verb]
    for flag, default in defaults.items():
        text = shown.split(f"{flag} ", 1)[1].split(" --", 1)[0]
        assert f"{default} by default" in text, flag


def test_refusals_of_the_system__name_the_argument(cohort, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ("--method", "simclr", "--out", tmp_path / "file" / "run")
    small = ("--samples", 8, "--batch-size", 4, "--set", "backbone.name=resnet10t")
    line = refused(capsys, "pretrain", cohort, *words, *small)
    assert f"The system refused at {tmp_path / 'file' / 'run'}: Not a directory" in line


def test_num_nodes__needs_a_launcher(cohort, tmp_path, capsys):
    line = refused(
        capsys, "pretrain", cohort, "--method", "simclr", "--out", tmp_path, "--num-nodes", 2
    )
    assert "torchrun --nnodes 2 --nproc-per-node 1" in line
