"""Answers that follow what a visitor moves: pictures, and one line below them."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Answer = Callable[..., tuple[Any, ...]]
EVENTS = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
"""Of an answer that is drawn while a slider still moves."""
STYLE = """
.drawn label[data-testid=block-label] {position: static; border: none; white-space: normal}
.drawn label[data-testid=block-label] > span {display: none}
input[type=radio]:checked {background-color: #3b82f6 !important; border-color: #3b82f6 !important}
"""
"""Of the page: what a picture shows is written above it, not over it; a choice is seen as made also
where it has no focus."""
_COUNT = itertools.count()


def timed(answer: Answer, pictures: int) -> Answer:
    """`answer` with a last line beside its pictures: how long it took, or what was wrong."""

    @functools.wraps(answer)
    def answered(*values: Any) -> tuple[Any, ...]:
        start = time.perf_counter()
        try:
            *found, words = answer(*values)
        except (ValueError, OSError) as error:
            return (*[None] * pictures, "error: " + " ".join(str(error).split()))
        milliseconds = 1e3 * (time.perf_counter() - start)
        found = [_apart(one) if isinstance(one, np.ndarray) else one for one in found]
        return (*found, f"{words}; {milliseconds:.0f} ms")

    return answered


def _apart(picture: np.ndarray) -> Image.Image:
    """A picture whose file is its own: gradio names files by their content, and would write one
    anew while a browser still reads it."""
    image = Image.fromarray(picture)
    image.info["number"] = str(next(_COUNT))
    return image


def picture(gr: Any, label: str) -> Any:
    """Where a picture is drawn."""
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        buttons=[],
        elem_classes="drawn",
        min_width=100,
    )


def line(gr: Any) -> Any:
    """Where the last line stands."""
    return gr.Textbox(show_label=False, container=False, elem_classes="line", interactive=False)


def follow(
    gr: Any, answer: Answer, given: Sequence[Any], shown: Sequence[Any], first: Any = None
) -> None:
    """Draws what `answer` says of what is given: once when the page opens, then on any change.

    shown: the pictures, and the line. first: the event to draw at, in place of the page's opening.
    """
    answered = timed(answer, len(shown) - 1)
    # Compiles, so that nobody waits for that before the page.
    answered(*(one.value if isinstance(one, gr.Slider | gr.Radio) else None for one in given))
    events = None if first is None else [first, *(one.change for one in given)]
    gr.on(events, answered, list(given), list(shown), **EVENTS)
