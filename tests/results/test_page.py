import base64
import re
from html.parser import HTMLParser

import pytest

from scoutview.base.errors import DataError
from scoutview.results import page as pages
from scoutview.results.display import DisplayTable
from scoutview.results.figures import Picture
from scoutview.results.page import Page, Section, render, tight, write_page

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Collects attributes that load something, headings, and whether tags are closed."""

    def __init__(self):
        super().__init__()
        self.loads, self.images, self.headings, self.open, self.ids = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in values:
                self.loads.append(values[name])
        if tag == "img":
            self.images.append(values)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(results_page):
    return results_page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(html):
    found = Reader()
    found.feed(html)
    return found


def test_page__loads_nothing_from_anywhere(html, reader):
    outside = [value for value in reader.loads if not value.startswith(("data:", "#"))]
    assert outside == []
    assert not re.search(r"url\(|@import|<script|<iframe|<object|javascript:", html)
    assert "default-src 'none'" in html


def test_page__pictures_load_nothing_either(results_page, html):
    for text in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", html):
        svg = base64.b64decode(text).decode()
        addresses = re.findall(r'(?:href|src)="([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
        assert all(address.startswith(("#", "data:")) for address in addresses)


def test_page__is_small(results_page):
    assert results_page.stat().st_size <= 10_000_000


def test_page__is_well_formed_with_headings_in_order(reader):
    assert reader.open == []
    assert reader.headings[0] == "h1"
    assert reader.headings.count("h1") == 1
    assert len(reader.ids) == len(set(reader.ids))


def test_page__every_picture_has_an_alternative_text(reader):
    assert len(reader.images) >= 8
    assert all(len(image["alt"]) > 20 for image in reader.images)
    assert all(int(image["width"]) <= 450 for image in reader.images)


def test_page__links_lead_to_its_sections(reader):
    anchors = [value[1:] for value in reader.loads if value.startswith("#")]
    assert anchors
    assert set(anchors) <= set(reader.ids)


def test_page__has_every_section(reader):
    assert set(reader.ids) >= {
        "result",
        "label-fractions",
        "differences",
        "training",
        "roc",
        "map",
        "neighbours",
        "data",
        "provenance",
        "runs",
    }


def test_page__names_what_was_dropped_and_hides_places(html):
    assert "8 images of train are exact copies of images of val" in html
    assert f"{977:016x} (train)" in html
    assert "/home/someone" not in html
    assert "0123456789abcdef0123456789abcdef01234567" in html


def test_page__says_what_the_time_of_probes_leaves_out(html):
    assert "in 45 runs, without reading images and computing features" in html


def small_page(**changes):
    table = DisplayTable("headline", "caption", ("a", "b"), ("left", "right"), (("x", "1"),))
    values = {
        "title": "T",
        "subtitle": "S",
        "headline": "H",
        "headline_table": table,
        "findings": (),
        "notes": (),
    }
    return Page(**{**values, **changes})


def test_render__escapes_what_people_named(tmp_path):
    assert "<b>bold</b>" not in render(small_page(title="<b>bold</b>"))


def test_write_page__refuses_a_page_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "LARGEST", 50_000)
    picture = Picture("p", "png", bytes(60_000), "alt", "caption", 10, 10)
    with pytest.raises(DataError, match="show fewer"):
        write_page(
            tmp_path / "r.html", small_page(sections=(Section("a", "A", pictures=(picture,)),))
        )
    assert not list(tmp_path.iterdir())


def test_tight__keeps_numbers_and_their_signs_together():
    space = "\N{NO-BREAK SPACE}"
    assert (
        tight("95 % p = 0.1, p < 0.001") == f"95{space}% p{space}={space}0.1, p{space}<{space}0.001"
    )
