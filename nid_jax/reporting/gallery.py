"""A page of every signal of a fit, for fits of more than the report shows.

Beside the fit's files, whose pictures it links to and that a browser loads as they come into view:
a few hundred bytes a signal, however large its picture is.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from nid_jax.reporting.downloads import link
from nid_jax.storage import artefacts
from nid_jax.storage.artefacts import file_name

PER_PAGE = 500
"""Signals of one page."""

_PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 14px sans-serif; margin: 1rem }}
figure {{ display: inline-block; margin: .3rem;
vertical-align: top; width: 9rem; overflow-wrap: anywhere }}
img {{ width: 9rem; height: 9rem; object-fit: contain; background: #eee }}</style>
</head><body><h1>{title}</h1><nav>{pages}</nav>
{figures}
</body></html>
""")


def page_name(number: int) -> str:
    """signals.html, signals_2.html, ..; numbers from 1."""
    stem, suffix = artefacts.SIGNALS.split(".")
    return artefacts.SIGNALS if number == 1 else f"{stem}_{number}.{suffix}"


def write_gallery(folder: Path, names: Sequence[str], title: str) -> None:
    """FOLDER/signals.html and further pages of the reconstructions of signals `names` there.

    title: the name of the fit.
    """
    pages = math.ceil(len(names) / PER_PAGE)
    for number in range(1, pages + 1):
        first = (number - 1) * PER_PAGE
        shown = range(first, min(first + PER_PAGE, len(names)))
        links = [
            Markup('<a href="{}">{}</a> ').format(page_name(n + 1), n + 1) for n in range(pages)
        ]
        text = _PAGE.format(
            title=f"{title}: signals {shown[0] + 1} to {shown[-1] + 1} of {len(names)}",
            pages=Markup("").join(links if pages > 1 else []),
            figures=Markup("\n").join(_figure(folder, index, names[index]) for index in shown),
        )
        artefacts.write_text(folder / page_name(number), text)


def _figure(folder, index, name):
    """A picture with its name, both links; of what is no picture the name alone."""
    stem = folder / artefacts.RECONSTRUCTIONS / file_name(index, name)
    picture = stem.with_name(f"{stem.name}.png")
    sheet = folder / artefacts.PICTURES / picture.name
    more = Markup("")
    if sheet.is_file():
        more = Markup(' <a href="{}">(beside what was given)</a>').format(link(sheet, folder))
    if not picture.is_file():
        address = link(stem.with_name(f"{stem.name}.npy"), folder)
        return Markup('<figure><a href="{}">{}</a>{}</figure>').format(address, name, more)
    image = Markup('<img loading="lazy" src="{0}" alt="">').format(link(picture, folder))
    return Markup('<figure><a href="{}">{}</a><figcaption>{}{}</figcaption></figure>').format(
        link(picture, folder), image, escape(name), more
    )
