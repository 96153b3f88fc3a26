import json

import pytest
from tests.cli.surface import FILE, flags, surface, verbs
from tests.command_line import scoutview

VERBS = (
    "index",
    "store",
    "show",
    "pretrain",
    "transfer",
    "embed",
    "compare",
    "export",
    "experiment",
    "demo",
)


def test_surface__is_frozen():
    now, frozen = surface(), json.loads(FILE.read_text(encoding="utf-8"))
    message = "a public name or flag changed; say so in CHANGELOG, then python -m tests.cli.surface"
    for part in ("commands", "api"):
        assert now[part] == frozen[part], message
    for part in ("methods", "tasks"):  # more of them take nothing from anybody
        assert set(frozen[part]) <= set(now[part]), message
    assert now.keys() == frozen.keys()


def test_surface__has_all_verbs():
    assert sorted(verbs()) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help__lists_every_flag_with_a_sentence(verb, capsys):
    assert scoutview(verb, "--help") == 0
    text = capsys.readouterr().out
    for flag in flags(verb):
        assert flag in text, f"{verb} {flag} is not in its help"
    described = [line for line in text.splitlines() if "--" in line and "│" in line]
    assert described


def test_help__of_the_root_lists_every_verb(capsys):
    assert scoutview("--help") == 0
    text = capsys.readouterr().out
    assert all(f"│ {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", ["store", "show", "pretrain", "transfer", "embed", "experiment"])
def test_where__is_everywhere(verb):
    assert "--where" in flags(verb)


@pytest.mark.parametrize("verb", ["pretrain", "transfer", "embed"])
def test_resume__is_where_something_can_stop(verb):
    assert "--resume" in flags(verb)
