"""Dictionaries in folders with a card, and what is said of names that are none; no network."""

import builtins
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import nid_jax as nid
from nid_jax import cli
from nid_jax.fields.model import build_model
from nid_jax.storage import hub
from nid_jax.storage.models import Trained

TITLE = "five |faces|\nof `people` <b>"


@pytest.fixture(scope="module")
def contents():
    config = ConfigDict(
        {
            "seed": 0,
            "dictionary": {
                "kind": "shared",
                "num_experts": 6,
                "num_layers": 3,
                "width": 7,
                "activation": "relu",
                "omega0": 30.0,
                "embedding": {"kind": "identity"},
            },
            "router": {"kind": "none", "top_k": 0},
        }
    )
    model = build_model(config, (4, 5, 3), 5, seed=1)
    signals = {"shape": [4, 5, 3], "count": 5, "title": TITLE, "ranked_by": "psnr"}
    return Trained(model, config, signals)


def assert_same(found, expected):
    before, after = (nnx.state(contents.model) for contents in (expected, found))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert found.config == expected.config
    assert found.signals == expected.signals


def test_a_folder_comes_back_and_tells_what_is_in_it(tmp_path, contents):
    picture = tmp_path / "atoms.png"
    picture.write_bytes(b"a picture")
    folder = hub.save_pretrained(
        tmp_path / "faces",
        contents,
        scores={"PSNR, dB": 27.4312, "fits": 10},
        pictures={"The most used atoms": picture},
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "atoms.png",
        "model.safetensors",
    ]
    assert_same(hub.from_pretrained(folder), contents)
    assert_same(hub.from_pretrained(str(folder)), contents)
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "nid_jax"\n')
    for expected in (
        'from_pretrained("faces")',
        "| PSNR, dB | 27.43 |",
        "| fits | 10 |",
        "| experts | 6 shared, all active |",
        "| signals | 4 x 5 samples, 3 channels |",
        "![The most used atoms](atoms.png)",
        r"five \|faces\| of \`people\` \<b\>",
    ):
        assert expected in card, expected
    assert all(re.fullmatch(r"\|.*\|", line) for line in card.splitlines() if line[:1] == "|")


def test_a_folder_is_loaded_as_files_and_runs_are(tmp_path, contents, monkeypatch):
    folder = hub.save_pretrained(tmp_path / "faces", contents)
    for path in (folder, str(folder), folder / hub.WEIGHTS):
        assert_same(nid.load(path), contents)
        assert cli._source(path) == folder / hub.WEIGHTS
    monkeypatch.chdir(tmp_path)
    with pytest.warns(nid.Notice, match="^faces: what is here is loaded, not the dictionary of"):
        assert_same(nid.load("faces"), contents)
    # A run comes first.
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"faces/config\.json"):
        nid.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="path holds no run yet: train into it first"):
        nid.load(tmp_path / "empty")


def test_a_card_of_ones_own_words(contents):
    card = hub.model_card(
        contents, "faces", licence="mit", sections={"Rights": "All *mine*."}, use="print(1)\n"
    )
    assert '\nlicense: "mit"\n---\n' in card
    assert card.endswith("\n## Rights\n\nAll *mine*.\n")
    assert "```python\nprint(1)\n```" in card
    assert "from_pretrained" not in card


def test_fewer_bits_and_another_name(tmp_path, contents):
    whole = hub.save_pretrained(tmp_path / "a", contents) / hub.WEIGHTS
    half = hub.save_pretrained(tmp_path / "b", contents, dtype="float16", repo_id="me/faces")
    assert (half / hub.WEIGHTS).stat().st_size < whole.stat().st_size
    assert 'from_pretrained("me/faces")' in (half / hub.CARD).read_text()


def test_names_that_are_neither_folder_nor_repository(tmp_path, contents):
    with pytest.raises(FileNotFoundError, match="no such folder, and no repository"):
        hub.from_pretrained(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty/model\.safetensors: no such file"):
        hub.from_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="none.png: no such picture"):
        hub.save_pretrained(tmp_path / "new", contents, pictures={"": tmp_path / "none.png"})
    assert not (tmp_path / "new").exists()


def test_without_the_library_the_line_says_what_to_install(contents, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "huggingface_hub":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (
        lambda: hub.from_pretrained("me/faces"),
        lambda: hub.push_to_hub("me/faces", contents),
    ):
        with pytest.raises(ValueError, match=r"me/faces: .*pip install 'nid_jax\[hub\]'"):
            call()


class Refusal(OSError):
    pass


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A hub of one folder on this disk, with the calls that are made of the real one."""
    store = tmp_path / "store"
    calls = []

    class Api:
        def __init__(self, **options):
            calls.append(options)

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            if repo_id == "others/faces":
                raise Refusal("403 Forbidden\nRequest ID: 7")
            return SimpleNamespace(repo_id=repo_id, private=private)

        def upload_folder(self, repo_id, folder_path, commit_message):
            from shutil import copytree

            copytree(folder_path, store / repo_id)

    def download(repo_id, filename, **options):
        calls.append(options)
        path = store / repo_id / filename
        if not path.exists():
            raise Refusal(f"404 {repo_id}\nRequest ID: 8")
        return str(path)

    class EntryNotFoundError(Exception):
        pass

    fake = SimpleNamespace(
        HfApi=Api,
        hf_hub_download=download,
        errors=SimpleNamespace(EntryNotFoundError=EntryNotFoundError),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return calls


def test_what_is_pushed_comes_back(library, contents):
    hub.push_to_hub("me/faces", contents, private=True, token="mine", scores={"psnr": 3.0})
    assert_same(hub.from_pretrained("me/faces", revision="v1"), contents)
    assert library[0]["token"] == "mine"
    assert library[1]["revision"] == "v1"


def test_refusals_of_the_hub_are_one_line(library, contents):
    for call, words in (
        (lambda: hub.from_pretrained("me/none"), "me/none: no such folder, and the Hub says: 404"),
        (lambda: hub.push_to_hub("others/faces", contents), "others/faces: the Hub says: 403"),
    ):
        with pytest.raises(ValueError, match=words) as excinfo:
            call()
        assert "\n" not in str(excinfo.value)


def test_the_real_library_has_these_calls():
    library = pytest.importorskip("huggingface_hub")
    import inspect

    for function, names in (
        (library.hf_hub_download, {"revision", "token", "library_name", "library_version"}),
        (library.HfApi.__init__, {"token", "library_name", "library_version"}),
        (library.HfApi.create_repo, {"private", "exist_ok"}),
        (library.HfApi.upload_folder, {"repo_id", "folder_path", "commit_message"}),
    ):
        assert names <= set(inspect.signature(function).parameters), function
    assert issubclass(library.errors.HfHubHTTPError, OSError)
    assert issubclass(library.errors.HFValidationError, ValueError)
    assert issubclass(library.errors.EntryNotFoundError, Exception)


def test_the_front_of_a_card_is_read_by_the_hub(tmp_path, contents):
    library = pytest.importorskip("huggingface_hub")
    folder = hub.save_pretrained(tmp_path / "faces", contents)
    card = library.ModelCard.load(folder / hub.CARD)
    assert card.data.to_dict()["library_name"] == "nid_jax"
    assert list(card.data.tags) == [
        "implicit-neural-representation",
        "dictionary",
    ]
