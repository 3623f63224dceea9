"""The page: all tabs, served on this machine alone."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import gradio as gr

import nid_jax as nid
from nid_jax.demo import codes, faces, live, shapes, signals, tomography, zoom
from nid_jax.running import stopping

UNSEEN = 12
KEPT = (600, 3600)
"""Seconds: how often old pictures are deleted, and how old these are."""


def build() -> tuple[Any, dict[str, Callable[[], None]], Callable[[], None]]:
    """(the page as gradio's Blocks, what compiles each tab, by its name, and what makes ready that
    of which no tab's first answer has need)."""
    given = {name: nid.load(name) for name in ("faces", "phantoms", "chairs")}
    unseen, slices, grids = (signals.unseen(one, UNSEEN) for one in given.values())
    learned = signals.learned_from(given["faces"])
    known = given["faces"]
    warm = {}
    # Nothing is sent to anyone.
    with gr.Blocks(title="nid_jax", analytics_enabled=False, delete_cache=KEPT) as page:
        gr.Markdown(
            "# Neural implicit dictionaries\nA signal is one small code under a dictionary that "
            "was learned from others of its kind."
        )
        with gr.Tab("Faces"):
            warm["Faces"] = faces.tab(gr, faces.Faces(known, unseen), page.load)
        with gr.Tab("Tomography"):
            made = tomography.Tomography(given["phantoms"], slices)
            warm["Tomography"] = tomography.tab(gr, made, page.load)
        with gr.Tab("Shapes") as opened:
            # Gradio's viewer of meshes never comes if one is there before its tab is opened.
            solid = shapes.Shapes(given["chairs"], grids)
            warm["Shapes"] = shapes.tab(gr, solid, opened.select)
        with gr.Tab("Codes"):
            warm["Codes"] = codes.tab(gr, codes.Codes(known, learned), page.load)
        with gr.Tab("Resolution"):
            warm["Resolution"] = zoom.tab(gr, zoom.Zoom(known, unseen), page.load)
    # A program for each number of samples takes as long as a tab.
    return page, warm, solid.fit_all


@contextmanager
def served(port: int = 0, say: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """The page on a port of this machine, 0: a free one. -> its address. Raises OSError.

    Its first tab is compiled by then; the others, and after them fits of shapes from every number
    of samples, go on in a thread. say: is told what is done.
    """
    with _folder():
        page, address = _launched(port, say)
        try:
            yield address
        finally:
            page.close()


def serve(port: int, say: Callable[[str], None]) -> None:
    """Until a signal ends this command, which has begun; say: is told what is done. Raises OSError
    for a port that is taken, OverflowError for one that is none."""
    try:
        # All in a thread: this one is not to be inside of a compiler when the signal comes.
        with _folder():
            ThreadPoolExecutor(1).submit(_launched, _free(port), say).result()
            threading.Event().wait()
    except stopping.Stopped as end:
        # Threads with jax inside of them are not to see how Python takes itself apart.
        stopping.leave(end.number)


def _launched(port: int, say: Callable[[str], None]) -> tuple[Any, str]:
    """The page that is served, and its address."""
    say("loading three dictionaries: faces, phantoms, chairs")
    page, warm, later = build()
    first, *others = warm
    say(f"compiling {first}")
    warm[first]()
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port or _free(),
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=live.STYLE,
        footer_links=[],
    )
    say(f"open {address} in a browser; Ctrl-C ends; the other tabs are being compiled")

    def rest() -> None:
        for name in others:
            warm[name]()
            say(f"{name} is ready")
        later()

    threading.Thread(target=rest, daemon=True).start()
    return page, address


@contextmanager
def _folder() -> Iterator[None]:
    """Where gradio writes what it shows, in a folder that is gone afterwards."""
    name = "GRADIO_TEMP_DIR"
    before = os.environ.get(name)
    # A thread may be writing there to the last.
    with tempfile.TemporaryDirectory(
        prefix="nid_jax_demo_", dir=before, ignore_cleanup_errors=True
    ) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def _free(port: int = 0) -> int:
    """A port that nobody has: this one, 0: any. Raises OSError."""
    with socket.socket() as one:
        # As the server does: one that was closed a moment ago is free.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        return int(one.getsockname()[1])
