import io

import pytest
from rich.console import Console

from scoutview.base import progress
from scoutview.base.progress import bar, show_bars


@pytest.fixture
def screen(terminal):
    """What a terminal of 120 columns was shown."""
    show_bars()
    return terminal


def test_bar__is_drawn_where_bars_are_switched_on(screen):
    with bar("count", total=7, done=2) as shown:
        shown.advance(3)
        shown.say("some words")
    text = screen.getvalue()
    assert all(part in text for part in ("count", "5/7", "some words"))


def test_bar__learns_its_total_later(screen):
    with bar("count") as shown:
        shown.reach(3, 9)
    assert "3/9" in screen.getvalue()


def test_bars__of_one_another_share_the_display(screen):
    with bar("outer", total=2) as outer:
        with bar("inner", total=3) as inner:
            inner.advance(3)
            display = progress._screen.display
            assert [task.description for task in display.tasks] == ["outer", "inner"]
        assert [task.description for task in display.tasks] == ["outer"]
        outer.advance()
    assert progress._screen.display is None
    text = screen.getvalue()
    assert "outer" in text
    assert "1/2" in text


def test_bar__goes_with_an_error(screen):
    with pytest.raises(KeyError), bar("count", total=1):
        raise KeyError
    assert progress._screen.display is None
    assert screen.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "cursor is back, bar is gone"


@pytest.mark.parametrize(
    ("wish", "shown", "drawn"),
    [
        (None, None, False),
        (None, True, True),
        (None, False, False),
        (True, None, True),
        (True, False, False),
        (False, None, False),
        (False, True, False),
    ],
)
def test_bar__is_drawn_as_caller_and_command_line_wish(terminal, wish, shown, drawn):
    if wish is not None:
        show_bars(wish)
    with bar("count", total=1, shown=shown):
        pass
    assert bool(terminal.getvalue()) == drawn


def test_bar__is_silent_without_a_terminal(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(progress, "_screen", progress._Screen())
    monkeypatch.setattr(progress, "console", lambda: Console(file=pipe))
    show_bars()
    with bar("count", total=1) as shown:
        shown.advance()
        shown.reach(1, 2)
        shown.say("words")
    assert pipe.getvalue() == ""
