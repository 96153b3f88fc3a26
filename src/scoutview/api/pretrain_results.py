"""What a finished pre-training leaves: weights, a model card, and a summary."""

import json

from safetensors.torch import save as save_tensors

from scoutview.api.pretrain_plan import Plan
from scoutview.base.files import atomic_writer
from scoutview.contract import Objective
from scoutview.methods import method_class
from scoutview.results.run import RunFolder
from scoutview.train.loop import Fitted


def write_results(plan: Plan, objective: Objective, run: RunFolder, fitted: Fitted) -> None:
    """Write the backbone, what the method keeps of its head, the model card and the summary."""
    config = plan.config
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in objective.backbone.model.state_dict().items()
    }
    metadata = {
        "method": plan.method,
        "backbone": config.backbone.model_copy(update={"weights": None}).model_dump_json(),
        "in_channels": str(config.backbone.in_channels),
        "mean": str(config.mean),
        "std": str(config.std),
        "data": config.data.model_dump_json(),
        "view": config.view.model_dump_json() if config.view else "",
    }
    with atomic_writer(run.backbone) as stream:
        stream.write(save_tensors(weights, metadata=metadata))
    head = objective.kept_head()
    if head is not None:
        layers = {name: v.detach().cpu().contiguous() for name, v in head.state_dict().items()}
        with atomic_writer(run.kept_head) as stream:
            stream.write(save_tensors(layers))
    last = run.metrics().iloc[-1].dropna()
    notes = [*plan.notes, *(f"Alarm while training: {name}." for name in fitted.alarms)]
    run.write_model_card(_model_card(plan, fitted, notes))
    run.finish(
        {
            "epoch_choice": "last",
            "chosen_epoch": fitted.samples_seen / len(plan.samples),
            "steps": fitted.steps,
            "samples_seen": fitted.samples_seen,
            "time_s": fitted.time_s,
            "alarms": list(fitted.alarms),
            "last": json.loads(last.to_json()),
            "notes": notes,
        }
    )


def _model_card(plan: Plan, fitted: Fitted, notes: list[str]) -> str:
    config = plan.config
    table = plan.cohort.table
    modalities = ", ".join(sorted(set(table["modality"])))
    policies = plan.samples.policies().items()
    intensity = "; ".join(f"{kind} `{policy.model_dump_json()}`" for kind, policy in policies)
    lines = [
        f"# {config.backbone.name}, pre-trained with {plan.method}",
        "",
        f"- Data: {len(plan.samples)} images, {modalities}.",
        *_label_line(plan),
        f"- Training: {fitted.samples_seen} samples seen in {fitted.steps} steps of"
        f" {config.batch_size}, seed {config.seed}, {config.precision}.",
        f"- Input: {config.backbone.in_channels} channel(s); intensity of {intensity}; then"
        f" (x - {config.mean:g}) / {config.std:g}.",
        f"- Weights: `backbone.safetensors`, tensor names of timm's {config.backbone.name}.",
        "- Last epoch; nothing was chosen on validation data.",
        "- Not a medical device. Check it on your own data before any use.",
        "",
        *(["## Notes", "", *(f"- {note}" for note in notes), ""] if notes else []),
    ]
    return "\n".join(lines)


def _label_line(plan: Plan) -> list[str]:
    """Say from which labels the backbone has learnt, if from any."""
    hybrid = plan.config.hybrid
    if plan.targets is None or (hybrid is None and method_class(plan.method).self_supervised):
        return []
    names = ", ".join(plan.targets.columns)
    if hybrid is None:
        return [f"- Labels: {names}."]
    return [f"- Labels: {names}, beside the images (alpha {hybrid.alpha:g}, beta {hybrid.beta:g})."]
