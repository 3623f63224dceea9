"""How `make docs` makes the pages."""

import sys
from pathlib import Path

import nid_jax

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "nid_jax"
author = "the nid_jax authors"
copyright = author
version = release = nid_jax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "directives",
    "docstrings",
    "mathml",
]
exclude_patterns = ["extensions", "notebooks/*.py"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
# Notebooks are committed with their outputs, and run by a test.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# jaxtyping's annotations say axes by letters, which Sphinx would resolve as names.
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "nid_jax"
html_show_sourcelink = False
html_math_renderer = "mathml"
