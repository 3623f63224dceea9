"""The pages: every key and every name is there, links lead somewhere, and the site builds."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nid_jax

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def config_keys():
    """The module that reads what configs say of their keys."""
    sys.path.insert(0, str(DOCS / "extensions"))
    try:
        yield importlib.import_module("config_keys")
    finally:
        sys.path.pop(0)


def test_every_config_key_says_what_it_is(config_keys):
    assert not [path for path, comment in config_keys.comments().items() if not comment]


def test_a_comment_is_of_the_keys_below_it(config_keys):
    source = """
def group():
    return {
        # the first
        "one": 1,
        "two": {"three": 3},
        # the last,
        # on two lines
        "four": 4,
    }


def variant(config):
    # why here
    config.group.one = 2
"""
    notes = {note.key: note.comment for note in config_keys._notes(source)}
    assert notes == {
        "one": "the first",
        "two": "the first",
        "three": "",
        "four": "the last, on two lines",
    }


def test_the_page_of_keys_has_every_group(config_keys):
    page = (DOCS / "reference" / "configs.md").read_text(encoding="utf-8")
    groups = {path.split(".")[0] if "." in path else "top" for path in list(config_keys.keys())}
    assert set(re.findall(r"\{config-keys\} (\w+)", page)) == groups


def test_every_public_name_is_in_the_reference():
    listed = re.findall(r"\{public-names\} nid_jax\n:only: (.*)", REFERENCE)
    rooms = set(re.findall(r"\{public-names\} nid_jax\.(\w+)", REFERENCE))
    names = " ".join(listed).split()
    assert len(names) == len(set(names))
    assert sorted([*names, *rooms]) == sorted(nid_jax.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert "NeuralDictionary" in page
    assert "train.differentiate" in (tmp_path / "reference" / "configs.html").read_text("utf-8")
