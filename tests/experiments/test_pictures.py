"""Scripts that make the pictures of docs: they have what they use of one another."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
SCRIPTS = ("picture", "report_screenshots", "screenshots")


def used(path):
    """(module, name) of what a file uses of modules that it imports at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, found = {}, set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules |= {one.asname or one.name: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module, one.name) for one in node.names}
            modules |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None:
                found.add((module, node.attr))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_uses_of_others_is_there(name):
    importlib.import_module(name)
    own = {*SCRIPTS, "measuring", "measuring.command", "measuring.pictures"}
    names = [(module, what) for module, what in used(FOLDER / f"{name}.py") if module in own]
    assert ("measuring.pictures", "write_png") in names
    for module, what in names:
        assert hasattr(importlib.import_module(module), what), (module, what)


def test_names_of_imported_modules_are_read(tmp_path):
    (tmp_path / "one.py").write_text("import a\nfrom b import c\na.SOON\nc.d(a.x.y)\nlocal.z\n")
    assert used(tmp_path / "one.py") == {("a", "SOON"), ("b", "c"), ("b.c", "d"), ("a", "x")}


def test_a_picture_has_the_first_palette_that_makes_it_small(tmp_path):
    write_png = importlib.import_module("measuring.pictures").write_png
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "a.png"
    for largest, least, most in ((1e9, 5, 200), (700, 3, 4), (1, 1, 2)):
        write_png(path, Image.fromarray(noise), (200, 4, 2), largest)
        with Image.open(path) as found:
            assert least <= len(found.getcolors()) <= most
