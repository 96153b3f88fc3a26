"""`export`: a run in; weights for plain timm, a model card, and ONNX out."""

import json
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from scoutview.base.errors import RunError, missing_extra
from scoutview.base.files import atomic_writer, require_empty, write_json, write_text
from scoutview.nn.backbones import Backbone, BackboneConfig, build_backbone, timm_arguments
from scoutview.results.run import RunFolder

logger = logging.getLogger(__name__)

ONNX_TOLERANCE: Final = 1e-4
"""Largest difference between the outputs of ONNX and PyTorch that is accepted."""


def export(run: str | Path, out: str | Path, *, onnx: bool = False) -> Path:
    """Write a run's backbone so that others can use it without scoutview.

    Args:
        run: A finished pre-training run, or a finished transfer run that trained a network.
        out: New folder: `model.safetensors` with timm's own tensor names, `model.json` with the
            arguments of `timm.create_model` and the preprocessing, `model_card.md` with the code
            that loads it; with `onnx` also `model.onnx`.
        onnx: Also write ONNX; needs the extra "onnx".

    Returns:
        The folder.

    Raises:
        RunError: The run has no backbone, `out` has content, or ONNX gives other outputs.
        MissingExtraError: The extra is not installed.
    """
    source = RunFolder.open(run)
    values = source.config
    if not source.backbone.is_file():
        raise RunError(f"{source.path} has no backbone.safetensors; {_remedy(source)}.")
    config = BackboneConfig.build(dict(values["backbone"]) | {"weights": str(source.backbone)})
    card = _card(source, config).replace(source.backbone.name, "model.safetensors")
    backbone = build_backbone(config).eval()
    side = _side(values)
    folder = require_empty(out)
    if onnx:
        _write_onnx(backbone, side, folder / "model.onnx")
    with atomic_writer(folder / "model.safetensors") as stream:
        stream.write(save({k: v.contiguous() for k, v in backbone.model.state_dict().items()}))
    write_json(folder / "model.json", _description(config, values, side), schema="model", version=1)
    write_text(folder / "model_card.md", card + _loading(config, backbone, values))
    return folder


def _remedy(source: RunFolder) -> str:
    if source.finished:
        return "it trained no network; export the pre-training run that it started from"
    return "finish the run with --resume"


def _method(values: dict[str, Any]) -> str:
    """Name of the method, which a configuration gives alone or with the method's settings."""
    method = values["method"]
    return str(method["name"] if isinstance(method, dict) else method)


def _card(source: RunFolder, config: BackboneConfig) -> str:
    """Read the run's model card; a transfer run has none, so one is made of its settings."""
    if source.model_card.is_file():
        return source.model_card.read_text(encoding="utf-8")
    values, summary = source.config, source.summary()
    share = f"{values['fraction']:.0%} of the labelled training patients, seed {values['seed']}"
    lines = [
        f"# {config.name}, {_method(values)} for {values['task']}",
        "",
        f"- Start: {values['initialisation']}.",
        f"- Labels: {share}; {values['images']['train']} images.",
        f"- Training: {summary['samples_seen']} samples seen; epoch by"
        f" {summary['epoch_choice']}: {summary['chosen_epoch']}.",
        "- Without its classifier. Not a medical device. Check it on your own data before any use.",
        "",
    ]
    return "\n".join(lines)


def _side(values: dict[str, Any]) -> int:
    """Side of the images that the backbone was trained for, in pixels."""
    size = values["view"]["size"]
    return int(size if isinstance(size, int) else size[0])


def _description(config: BackboneConfig, values: dict[str, Any], side: int) -> dict[str, Any]:
    arguments = {k: v for k, v in timm_arguments(config).items() if k != "model_name"}
    return {
        "timm_name": config.name,
        "timm_arguments": arguments,
        "small_stem": config.small_stem,
        "in_channels": config.in_channels,
        "image_size": side,
        "intensity": _intensity(values),
        "mean": values["mean"],
        "std": values["std"],
        "method": _method(values),
    }


def _loading(config: BackboneConfig, backbone: Backbone, values: dict[str, Any]) -> str:
    arguments = {k: v for k, v in timm_arguments(config).items() if k != "model_name"}
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    lines = [
        "import timm",
        "from safetensors.torch import load_file",
        "",
        f"model = timm.create_model({config.name!r}, {given})",
    ]
    if config.small_stem:
        width = backbone.model.conv1.out_channels
        lines[1:1] = ["import torch.nn as nn"]
        lines += [
            f"model.conv1 = nn.Conv2d({config.in_channels}, {width}, 3, 1, 1, bias=False)",
            "model.maxpool = nn.Identity()",
        ]
    lines += ['model.load_state_dict(load_file("model.safetensors"))', "model.eval()"]
    return (
        "\n## Load with plain timm\n\n```python\n" + "\n".join(lines) + "\n```\n\n"
        f"Input: (B, {config.in_channels}, H, W) float32, grey values mapped to [0, 1] by"
        f" `{json.dumps(_intensity(values))}`, then (x - {values['mean']:g}) / {values['std']:g}."
        f" Output: (B, {backbone.dim}).\n"
    )


def _intensity(values: dict[str, Any]) -> Any:
    """What made grey values of stored ones, by modality and stored type.

    Runs of before this was recorded have the policy that was asked for, or null for the defaults.
    """
    return values.get("intensity_used", values["data"]["intensity"])


def _write_onnx(backbone: Backbone, side: int, path: Path) -> None:
    """Export, then run both on the same images and compare.

    Raises:
        MissingExtraError: A package of the extra is not installed.
        RunError: The outputs differ by more than `ONNX_TOLERANCE`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter needs it
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx") from error
    images = torch.rand(
        2, backbone.in_channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        backbone.model,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["images"],
        output_names=["features"],
    )
    assert program is not None
    encoded: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(encoded, providers=["CPUExecutionProvider"])
    given = torch.cat([images, images.flip(0)])[:3]  # another batch size than the traced one
    with torch.no_grad():
        expected: Tensor = backbone.model(given)
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    worst = float(np.abs(found - expected.numpy()).max())
    if not worst <= ONNX_TOLERANCE:
        raise RunError(
            f"ONNX gives other features than PyTorch (difference {worst:.2g}, accepted"
            f" {ONNX_TOLERANCE:g}); nothing was exported. Try another opset or report this."
        )
    logger.info("ONNX and PyTorch agree to %.1e on %d images.", worst, len(given))
    with atomic_writer(path) as stream:
        stream.write(encoded)
