"""What a reader must know before trusting a comparison."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from scoutview.results.collect import Arm, Collection, ComparedRun
from scoutview.results.scoring import Scored

if TYPE_CHECKING:
    from scoutview.results.tables import Cell

FEW_SEEDS: Final = 5
"""Below this, an interval over seeds says little about other seeds."""


def make_notes(
    collection: Collection,
    scored: Scored,
    cells: "Sequence[Cell]",
    best_by: str,
    patient_ids_known: bool,
) -> list[str]:
    """Collect what limits the comparison, one sentence each.

    Args:
        collection: The runs, with the notes that came with them.
        scored: Their scores.
        cells: Seeds of every arm and fraction.
        best_by: Where the best arm was chosen, "validation" or "test".
        patient_ids_known: Whether the source names patients.
    """
    notes = list(collection.notes)
    notes += _lost_notes(collection)
    if not patient_ids_known:
        notes.append(
            "The source has no patient ids: every image counts as a patient, so intervals may be"
            " too narrow and images of one patient may lie on both sides of a split."
        )
    notes += [
        f"Label {label!r} has one class in a test set ({why}): reported, not averaged."
        for label, why in scored.one_class.items()
    ]
    notes += _seed_notes(cells)
    notes += _weight_notes(collection)
    notes += _epoch_notes(collection.runs)
    notes += _selection_notes(collection.runs)
    if best_by == "test":
        notes.append(
            "Validation predictions are missing, so the best arm was picked by its test score,"
            " which flatters it."
        )
    return notes


def _lost_notes(collection: Collection) -> list[str]:
    lost = [name for study in collection.studies for name in study.lost_pretrainings()]
    if not lost:
        return []
    return [
        f"The pre-training of {', '.join(dict.fromkeys(lost))} is not where the study says (one of"
        " them was moved), so its curves and settings are not shown; scores do not need it."
    ]


def _seed_notes(cells: "Sequence[Cell]") -> list[str]:
    notes = []
    counts = sorted({len(cell.seeds) for cell in cells})
    if counts[0] == 1:
        single = [f"{c.arm} at {100 * c.fraction:g} %" for c in cells if len(c.seeds) == 1]
        notes.append(
            "One seed only, so no interval over seeds and no t-test (the bootstrap over test"
            f" patients decides instead): {', '.join(single)}."
        )
    few = [count for count in counts if 1 < count < FEW_SEEDS]
    if few:
        notes.append(
            f"Only {few[0]} seeds in places: intervals over seeds are wide and their normal"
            " assumption cannot be checked."
        )
    if counts[0] < 6:
        notes.append(
            "Wilcoxon's signed-rank test cannot reach p < .05 with fewer than 6 shared seeds"
            f" (smallest here: {counts[0]}); the paired t-test is used."
        )
    if any("is cut" in cell.over_seeds.note for cell in cells):
        notes.append(
            "Some intervals over seeds would reach beyond 0 or 1 and are cut there: few seeds that"
            " differ much."
        )
    if any("folds" in cell.over_seeds.method for cell in cells):
        notes.append("Intervals over folds are too narrow, because folds share training patients.")
    return notes


def _weight_notes(collection: Collection) -> list[str]:
    """Say which weights are the same at all seeds, so that no interval holds their variance."""
    once = [
        arm.name for arm in collection.arms if arm.pretrained and _one_training(collection, arm)
    ]
    drawn = [arm.name for arm in collection.arms if _one_draw(collection, arm)]
    anew = [arm.name for arm in collection.arms if _anew(arm)]
    if not once and not drawn:
        return []
    said = [
        *_each(once, "one pre-training"),
        *_each(drawn, "one draw of random weights"),
        *_each(anew, "drawn and trained anew at each seed", each=""),
    ]
    another = " or ".join(["pre-training"] * bool(once) + ["draw"] * bool(drawn))
    how = " To see another random network: transfer with --set backbone_seed=N." if drawn else ""
    return [
        "Seeds vary the label subset and what is trained on it, not the weights that training"
        f" starts from: {'; '.join(said)}. Another {another} may change a verdict.{how}"
    ]


def _each(names: Sequence[str], what: str, each: str = " each") -> list[str]:
    if not names:
        return []
    return [f"{names[0]} is {what}" if len(names) == 1 else f"{_listed(names)} are {what}{each}"]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _one_training(collection: Collection, arm: Arm) -> bool:
    """Whether all studies have the same weights under this name; runs may repeat a method."""
    known = [i for study in collection.studies for i in study.content.initialisations]
    same = arm.initialisation.name
    return len({i.weights or i.run or i.file for i in known if i.name == same}) == 1


def _one_draw(collection: Collection, arm: Arm) -> bool:
    """Whether a random network is the same at all seeds: a probe has one, other modes do not."""
    if (arm.initialisation.kind, arm.method) != ("random", "linear_probe"):
        return False
    runs = [run.folder.config for run in collection.runs if run.arm == arm.name]
    return len({config.get("transfer", {}).get("backbone_seed") for config in runs}) == 1


def _anew(arm: Arm) -> bool:
    kind, method = arm.initialisation.kind, arm.method
    return kind == "supervised" or (kind == "random" and method == "frozen_head")


def _epoch_notes(runs: Sequence[ComparedRun]) -> list[str]:
    words = {"last": "the last epoch", "validation": "the epoch chosen on validation"}
    choices = {run.epoch_choice for run in runs}
    stated = [words[choice] for choice in sorted(choices) if choice in words]
    notes = [f"Scores are those of {' or '.join(stated)}."] if stated else []
    if len(stated) > 1:
        notes[-1] += " These are mixed within this comparison; see the table of runs."
    if "none" in choices:
        simple = {run.entry.method for run in runs if run.epoch_choice == "none"}
        if simple - {"random_forest"}:
            notes.append("Linear classifiers are solved to their optimum: no epoch to choose.")
        if "random_forest" in simple:
            notes.append("A random forest is grown once: no epoch to choose.")
    if not choices <= {*words, "none"}:
        notes.append("Some runs do not state whether the last or a chosen epoch was tested.")
    return notes


def _selection_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Say how many labels beyond the label fraction the choice of a setting has used."""
    counts: set[int] = set()
    what: set[str] = set()
    for run in runs:
        if "chosen_by" in run.summary:
            what.add("leaf size" if "min_leaf" in run.summary else "penalty")
        elif run.epoch_choice == "validation":
            what.add("epoch")
        else:
            continue
        counts.add(int(run.folder.config.get("images", {}).get("val", 0)))
    known = sorted(counts - {0})
    if not known:
        return []
    size = f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
    smallest = min(run.entry.fraction for run in runs)
    return [
        f"The {' or '.join(sorted(what, reverse=True))} is chosen on {size} labelled validation"
        f" images whatever the label fraction, so training on {100 * smallest:g} % of the labels"
        " uses more labels than those, for selection."
    ]
