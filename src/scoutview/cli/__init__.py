"""The `scoutview` command. It parses the same models as `scoutview.api`, and nothing more.

Commands are loaded when they are called, so `scoutview --help` imports no heavy package.
"""

import os
import sys
from typing import Final

from cyclopts import App, CycloptsError, Parameter

from scoutview import __version__
from scoutview.base.errors import ScoutviewError

_VERBS: Final = {
    "index": "Folders of scans and tables in, a cohort out.",
    "store": "Decode a cohort's pixels once into shards that training reads.",
    "show": "Counts, geometry, labels and a contact sheet of a cohort.",
    "pretrain": "Train a backbone on images without labels.",
    "transfer": "Train and test a task from one or more initialisations.",
    "embed": "Write a backbone's features of a cohort as a table.",
    "compare": "Statistics, tables, figures and one results page from studies.",
    "export": "Weights for plain timm, a model card, and ONNX.",
    "experiment": "A grid of initialisations, label fractions and seeds, then compare.",
    "demo": "Bundled real radiographs through the whole path, in minutes.",
}

app = App(
    name="scoutview",
    help="Self-supervised pre-training, transfer and honest evaluation for medical images.",
    version=__version__,
    help_format="plaintext",
    version_format="plaintext",
    suppress_keyboard_interrupt=False,  # main says that it was stopped
    default_parameter=Parameter(negative=()),  # no --no-strict beside --strict
)
for _verb, _help in _VERBS.items():
    app.command(f"scoutview.cli.{_verb}:{_verb}", name=_verb, help=_help)


def main() -> None:
    """Run the command line; what the user can mend ends with one line and status 2.

    With SCOUTVIEW_TRACEBACK=1 the traceback is shown instead.
    """
    try:
        if set(sys.argv[1:2]) & set(_VERBS):
            from scoutview.cli.terminal import show_messages

            show_messages()
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except (ScoutviewError, CycloptsError) as error:
        _stop(str(error))
    except OSError as error:
        _stop(
            f"The system refused{_at(error)}: {error.strerror}. SCOUTVIEW_TRACEBACK=1 shows where."
        )
    except MemoryError:
        _stop("There is not enough memory; use fewer workers or more memory. What is done is kept.")
    except KeyboardInterrupt:
        print("scoutview: stopped.", file=sys.stderr)
        sys.exit(130)


def _at(error: OSError) -> str:
    """Name the argument that the error is about: the file itself may be named after a patient."""
    place = os.path.abspath(os.fsdecode(error.filename)) if error.filename else ""
    given = [word for word in sys.argv[2:] if place.startswith(os.path.abspath(word))]
    return f" at {max(given, key=len)}" if given else ""


def _stop(message: str) -> None:
    if os.environ.get("SCOUTVIEW_TRACEBACK"):
        raise
    print(f"scoutview: {message}", file=sys.stderr)
    sys.exit(2)
