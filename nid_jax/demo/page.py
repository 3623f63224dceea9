"""The page: all tabs, served on this machine alone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import gradio as gr

import nid_jax as nid
from nid_jax.demo import codes, faces, live, shapes, signals, tomography, zoom

UNSEEN = 12
KEPT = (600, 3600)
"""Seconds: how often old pictures are deleted, and how old these are."""


def build(dictionaries: dict[str, nid.NeuralDictionary] | None = None) -> Any:
    """The page as gradio's Blocks. dictionaries: by the name of those that come with the package,
    which are loaded where they are not given; the shapes' tab needs "chairs" and so on."""
    given = dictionaries or {name: nid.load(name) for name in ("faces", "phantoms", "chairs")}
    unseen, slices, grids = (
        signals.unseen(given[name], UNSEEN) for name in ("faces", "phantoms", "chairs")
    )
    learned = signals.learned_from(given["faces"])
    # Nothing is sent to anyone.
    with gr.Blocks(title="nid_jax", analytics_enabled=False, delete_cache=KEPT) as page:
        gr.Markdown(
            "# Neural implicit dictionaries\nA signal is one small code under a dictionary that "
            "was learned from others of its kind."
        )
        with gr.Tab("Faces"):
            faces.tab(gr, faces.Faces(given["faces"], unseen))
        with gr.Tab("Tomography"):
            tomography.tab(gr, tomography.Tomography(given["phantoms"], slices))
        with gr.Tab("Shapes") as opened:
            shapes.tab(gr, shapes.Shapes(given["chairs"], grids), opened)
        with gr.Tab("Codes"):
            codes.tab(gr, codes.Codes(given["faces"], learned))
        with gr.Tab("Resolution"):
            zoom.tab(gr, zoom.Zoom(given["faces"], unseen))
    return page


@contextmanager
def served(port: int = 0) -> Iterator[str]:
    """The page on a port of this machine, 0: a free one. -> its address. Raises OSError."""
    page = build()
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
    try:
        yield address
    finally:
        page.close()


def serve(port: int) -> None:
    """Until Ctrl-C. Raises OSError for a port that is taken."""
    with served(port) as address, suppress(KeyboardInterrupt):
        print(f"open {address} in a browser; Ctrl-C ends", flush=True)
        Event().wait()


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
