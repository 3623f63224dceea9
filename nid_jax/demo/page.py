"""The page: all tabs, served on this machine alone."""

from typing import Any

import gradio as gr

import nid_jax as nid
from nid_jax.demo import codes, faces, shapes, signals, tomography, zoom

UNSEEN = 12


def build(dictionaries: dict[str, nid.NeuralDictionary] | None = None) -> Any:
    """The page as gradio's Blocks. dictionaries: by the name of those that come with the package,
    which are loaded where they are not given; the shapes' tab needs "chairs" and so on."""
    given = dictionaries or {name: nid.load(name) for name in ("faces", "phantoms", "chairs")}
    unseen = signals.built_in("image", given["faces"].grid_shape, UNSEEN)
    learned = signals.learned_from("image", given["faces"].grid_shape)
    slices = signals.built_in("ct", given["phantoms"].grid_shape, UNSEEN)
    grids = signals.built_in("sdf", given["chairs"].grid_shape, UNSEEN)
    # Nothing is sent to anyone.
    with gr.Blocks(title="nid_jax", analytics_enabled=False) as page:
        gr.Markdown(
            "# Neural implicit dictionaries\nA signal is one small code under a dictionary that "
            "was learned from others of its kind."
        )
        with gr.Tab("Faces"):
            faces.tab(gr, faces.Faces(given["faces"], unseen))
        with gr.Tab("Tomography"):
            tomography.tab(gr, tomography.Tomography(given["phantoms"], slices))
        with gr.Tab("Shapes"):
            shapes.tab(gr, shapes.Shapes(given["chairs"], grids))
        with gr.Tab("Codes"):
            codes.tab(gr, codes.Codes(given["faces"], learned))
        with gr.Tab("Resolution"):
            zoom.tab(gr, zoom.Zoom(given["faces"], unseen))
    return page


def serve(port: int) -> None:
    """Until Ctrl-C. Raises OSError for a port that is taken."""
    build().launch(
        server_name="127.0.0.1",
        server_port=port or None,
        share=False,
        ssr_mode=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
    )
