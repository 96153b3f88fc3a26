from pathlib import Path

import scoutview.contract
from scoutview.contract import Objective
from scoutview.methods.config import MethodConfig

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"
RUN_WHILE_TRAINING = {"forward", "after_update", "between_epochs"}
PLAIN = {"backbone", "self_supervised", "with_defaults", "model_config"}
"""What no method answers by a function of its own."""


def test_index__lists_every_decision_in_order():
    pages = sorted(page.name for page in DECISIONS.glob("0*.md"))
    index = (DECISIONS / "index.md").read_text(encoding="utf-8")
    places = [index.index(f"]({page})") for page in pages]
    assert places == sorted(places)


def test_contract__names_all_that_a_method_is_asked():
    """A new question needs a line in the decision about questions, and in the contract."""
    asked = {
        name
        for kind in (Objective, MethodConfig)
        for name in vars(kind)
        if not name.startswith("_") and name not in PLAIN
    }
    assert asked >= RUN_WHILE_TRAINING
    decision = (DECISIONS / "0010-questions-beside-the-hooks.md").read_text(encoding="utf-8")
    assert {name for name in asked if name not in decision} == set()
    rest = asked - {"first_epochs", "preflight"}  # asked by others of the configuration
    assert {name for name in rest if name not in (scoutview.contract.__doc__ or "")} == set()
