import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "numpy", "pandas", "pyarrow", "cv2", "pydicom", "sklearn", "matplotlib")


def loaded(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_import__loads_nothing_heavy() -> None:
    assert loaded("import scoutview").isdisjoint(HEAVY)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_root_flags__load_nothing_heavy(flag: str) -> None:
    code = (
        f"import sys; sys.argv = ['scoutview', '{flag}']\n"
        "from scoutview.cli import app\n"
        "try: app()\nexcept SystemExit: ..."
    )
    assert loaded(code).isdisjoint(HEAVY)


@pytest.mark.parametrize("room", ["base", "pixels", "index", "store", "stats", "results"])
def test_rooms_without_torch__load_no_torch(room: str) -> None:
    code = (
        "import pkgutil, importlib\n"
        f"import scoutview.{room} as room\n"
        "for m in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "    importlib.import_module(m.name)"
    )
    assert loaded(code).isdisjoint({"torch", "timm", "torchvision", "lightning_fabric"})


def test_training__loads_no_decoder_and_ends_without_a_word() -> None:
    code = "import gc, scoutview.api.pretrain; assert gc.isenabled() and gc.get_freeze_count()"
    decoders = {"pydicom", "gdcm", "nibabel", "sklearn", "scipy.special", "matplotlib"}
    modules = loaded(code)
    assert "timm" in modules
    assert modules.isdisjoint(decoders)
    assert not any("leaked" in word for word in modules)


def test_version__is_the_package_version() -> None:
    from scoutview import __version__

    done = subprocess.run(
        [sys.executable, "-m", "scoutview", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == __version__
