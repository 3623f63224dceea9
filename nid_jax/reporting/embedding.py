"""Files as parts of a page that needs no others: pictures and movies as text, of bounded size."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SHEET_BYTES, SHEET_SIDE = 2_000_000, 2304
"""A PNG of more bytes is reduced to that side, twice the page's width, and is a JPEG if need be."""
MOVIE_BYTES = 4_000_000
"""A movie above it is a link to its file, not a part of the page."""
_PNG = b"\x89PNG\r\n\x1a\n"
_KINDS = {".mp4": "video/mp4", ".gif": "image/gif"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture or movie of a page."""

    source: str
    """A data URI, or a path relative to the page."""
    width: int
    """In pixels; 0 where it is not known."""
    caption: str
    movie: bool = False
    """Whether a player is wanted; a GIF plays by itself."""


def picture(path: Path, caption: str, longest: int = 0) -> Picture | None:
    """A PNG; None where there is no such file. longest: pixels of its longer side, at most.

    Raises ValueError, naming the file, for what is no PNG.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    if content[:8] != _PNG:
        raise ValueError(f"{path.name} is no PNG.")
    width, kind = int.from_bytes(content[16:20], "big"), "png"
    height = int.from_bytes(content[20:24], "big")
    large = longest and max(width, height) > longest
    if large or len(content) > SHEET_BYTES:
        try:
            content, width, kind = _smaller(content, longest)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise ValueError(f"{path.name} cannot be read: {error}.") from error
    return Picture(_uri(f"image/{kind}", content), width, caption)


def _smaller(content, longest):
    """(bytes, width, kind) of a PNG reduced to `longest` pixels, and lossy where still too much."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    side = longest or SHEET_SIDE
    image.thumbnail((side, side), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    kind = "png"
    if buffer.tell() > SHEET_BYTES or (longest and buffer.tell() > 4 * longest * 100):
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue(), image.width, kind


def movie(path: Path, page: Path, caption: str) -> Picture:
    """An .mp4 or a .gif: in the page itself, or a link where it is large.

    page: the folder that the page is in.
    """
    suffix = path.suffix.lower()
    if path.stat().st_size > MOVIE_BYTES:
        source = Path(os.path.relpath(path, page)).as_posix()
    else:
        source = _uri(_KINDS[suffix], path.read_bytes())
    return Picture(source, 0, caption, movie=suffix == ".mp4")


def _uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
