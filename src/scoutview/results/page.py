"""One HTML file with everything in it: no request to any host, readable on a phone and on paper."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

import jinja2

from scoutview.base.errors import DataError
from scoutview.base.files import write_text
from scoutview.results.datasheet import DataSheet
from scoutview.results.display import DisplayTable
from scoutview.results.figures import Picture

_TOGETHER: Final = re.compile(r"(?<=\d) (?=%)|(?<=\bp) (?=[=<])|(?<=p [=<]) (?=[\d.])")

LARGEST: Final = 10_000_000
"""Bytes that a page may have."""


@dataclass(frozen=True)
class Section:
    """A part of the page; parts without content are left out by the caller."""

    name: str
    """Anchor in the page."""
    title: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    tables: tuple[DisplayTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    folded: tuple[tuple[str, tuple[DisplayTable, ...]], ...] = ()
    """Further tables behind a title; on paper they are left out."""
    sheet: DataSheet | None = None
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value."""
    code: tuple[tuple[str, str], ...] = ()
    """Title and preformatted text, behind the title."""
    small: bool = False
    """Show pictures beside each other where there is room."""

    @property
    def only_folded(self) -> bool:
        """Whether nothing would be left of it on paper."""
        shown = (self.text, self.tables, self.pictures, self.facts, self.sheet)
        return not any(shown)


@dataclass(frozen=True)
class Page:
    """Everything the results page shows, in order."""

    title: str
    subtitle: str
    headline: str
    headline_table: DisplayTable
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)


def write_page(path: str | Path, page: Page) -> Path:
    """Write the page.

    Args:
        path: The HTML file.
        page: Its content.

    Returns:
        The path.

    Raises:
        DataError: The page would be larger than `LARGEST`.
    """
    html = render(page)
    if (size := len(html.encode())) > LARGEST:
        raise DataError(
            f"The page would have {size / 1e6:.1f} MB, more than {LARGEST / 1e6:g}; show fewer"
            " embedding maps and neighbours."
        )
    write_text(path, html)
    return Path(path)


def render(page: Page) -> str:
    """Fill the template."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["tight"] = tight
    source = resources.files("scoutview.results").joinpath("page.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(page=page, contents=contents(page.sections))


def contents(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Anchor and title of every section."""
    return [(section.name, section.title) for section in sections]


def data_uri(image: Picture) -> str:
    """Write a picture's bytes as the address of an image, so that nothing needs to be loaded."""
    kind = "image/svg+xml" if image.kind == "svg" else "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.data).decode()}"


def tight(text: str) -> str:
    """Keep what belongs together on one line: 95 %, p = 0.01, p < 0.001."""
    return _TOGETHER.sub("\N{NO-BREAK SPACE}", text)
