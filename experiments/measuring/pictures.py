"""Pictures of docs as small files."""

import math
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from measuring import command
from nid_jax.reporting.pictures import save


def write_png(
    path: Path,
    picture: Image.Image,
    palettes: Iterable[int | Image.Image],
    largest: float = math.inf,
) -> None:
    """Write a picture in colours (RGB) by the first palette that makes no more than `largest`
    bytes, else by the last, and say so.

    palettes: how many colours, or a picture whose palette is taken.
    """
    for palette in palettes:
        if isinstance(palette, int):
            few = picture.quantize(palette, dither=Image.Dither.NONE)
        else:
            few = picture.quantize(palette=palette, dither=Image.Dither.NONE)
        save(path, few)
        if path.stat().st_size <= largest:
            break
    size = f"{picture.width} x {picture.height}"
    command.say(f"{path}: {size}, {path.stat().st_size / 1e3:.0f} kB")
