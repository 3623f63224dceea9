"""All signals of a fit are within reach of its report, however many, in few bytes each."""

import html.parser
import os
import urllib.parse

import numpy as np

from nid_jax.reporting import fit_section, fits, gallery, panels, report
from nid_jax.reporting.panels import Panel
from nid_jax.storage import artefacts


class Links(html.parser.HTMLParser):
    """Addresses that a page shows and links to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.lazy = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "a":
            self.links.append(urllib.parse.unquote_to_bytes(found["href"]).decode())
        if tag == "img":
            self.images.append(urllib.parse.unquote_to_bytes(found["src"]).decode())
            self.lazy.append(found.get("loading"))


def test_every_signal_is_reached_from_the_report(tmp_path):
    count = 2 * gallery.PER_PAGE + 3
    names = [f"<b>{number}</b> #? 'ä\".png" for number in range(count)]
    folder = tmp_path / "fits" / "filled"
    fits.write_plain(folder / "reconstructions", np.zeros((count, 2, 2, 1)), names, True)
    sheet = folder / "pictures" / f"{artefacts.file_name(0, names[0])}.png"
    sheet.parent.mkdir()
    sheet.touch()
    gallery.write_gallery(folder, names, "filled & more")
    (folder / "metrics.json").write_text(f'{{"signals": {count}}}')
    panels.write_sheet(folder / "comparison.png", [Panel("truth", np.zeros((1, 4, 4, 1)))], [])
    section = fit_section.section("filled", folder, tmp_path)
    assert section["all_signals"] == "fits/filled/signals.html"
    assert "signals.html" in [entry["name"] for entry in section["files"]]
    page = report.write_report(tmp_path).read_text("utf-8")
    assert "A page of all of them" in page
    assert 'href="fits/filled/signals.html"' in page
    assert len(page) < 200_000
    reached, left = set(), ["signals.html"]
    seen = set()
    while left:
        page = left.pop()
        seen.add(page)
        text = (folder / page).read_text("utf-8")
        assert len(text) < 1000 * gallery.PER_PAGE
        assert "<b>" not in text
        assert "filled &amp; more: signals " in text
        found = Links(text)
        assert set(found.lazy) == {"lazy"}
        reached |= set(found.images) & set(found.links)
        left += [link for link in found.links if link.endswith(".html") and link not in seen]
        assert all((folder / link).is_file() for link in found.links)
        assert ("pictures/" + sheet.name in found.links) == (page == "signals.html")
    assert len(seen) == 3
    assert {os.path.basename(link) for link in reached} == set(
        os.listdir(folder / "reconstructions")
    )


def test_signals_that_are_no_pictures_have_links(tmp_path):
    names = [f"scan {number}" for number in range(3)]
    fits.write_plain(tmp_path / "reconstructions", np.zeros((3, 2, 2, 2, 1)), names, True)
    gallery.write_gallery(tmp_path, names, "volumes")
    found = Links((tmp_path / "signals.html").read_text())
    assert len(found.links) == 3
    assert not found.images
    assert all((tmp_path / link).is_file() for link in found.links)
