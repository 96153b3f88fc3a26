"""Shared by all tests."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from scoutview.base import progress

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 120 columns is shown, as a text stream; bars are not yet switched on."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "_screen", progress._Screen())
    monkeypatch.setattr(progress, "console", lambda: console)
    return text
