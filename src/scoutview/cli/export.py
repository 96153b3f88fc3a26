"""`scoutview export`."""

from pathlib import Path

from scoutview.cli.terminal import note


def export(run: Path, *, out: Path, onnx: bool = False) -> None:
    """Write a backbone for plain timm, with a model card; with --onnx also for ONNX runtimes.

    Parameters
    ----------
    run
        Folder of a finished run.
    out
        New folder for the exported files.
    onnx
        Also write model.onnx and check its outputs; needs the extra "onnx".
    """
    from scoutview.api.export import export as export_run

    note(f"Exported: {export_run(run, out, onnx=onnx)}")
