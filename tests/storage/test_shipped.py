"""Names of dictionaries that come with the package: which file each is, and what is refused."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from nid_jax import tasks
from nid_jax.notices import Notice
from nid_jax.storage import hub, one_file, shipped

NAMES = ["chairs", "faces", "phantoms", "photos"]


@pytest.fixture
def folder(tmp_path):
    """A folder of two, as a release has it, of bytes that are no weights."""
    for name in ("cats", "faces"):
        (tmp_path / "there" / name).mkdir(parents=True)
        (tmp_path / "there" / name / hub.WEIGHTS).write_bytes(name.encode())
    shipped.write_sums(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_sums_are_those_of_sha256sum(folder):
    lines = (folder / shipped.SUMS).read_text().splitlines()
    assert lines[1] == f"{hashlib.sha256(b'faces').hexdigest()}  faces/model.safetensors"
    assert list(shipped.sums(folder)) == ["cats", "faces"]


def test_a_name_is_its_file_and_anything_else_a_path(folder, here):
    assert shipped.located("faces", folder=folder) == folder / "faces" / hub.WEIGHTS
    for path in ("./faces", "runs/faces", "faces.safetensors", str(here / "faces"), ".", ".."):
        assert shipped.located(path, folder=folder) == Path(path)
    (here / "w").mkdir()
    assert shipped.located("w", folder=folder) == Path("w")


def test_a_folder_without_a_run_does_not_take_the_name(folder, here):
    (here / "faces").mkdir()
    assert shipped.located("faces", folder=folder) == folder / "faces" / hub.WEIGHTS


@pytest.mark.parametrize("kind", ["run", "file", "weights"])
def test_what_is_here_comes_first_and_is_said(folder, here, kind):
    if kind == "run":
        (here / "faces").mkdir()
        (here / "faces" / "config.json").write_text("{}")
    elif kind == "weights":
        (here / "faces").mkdir()
        (here / "faces" / hub.WEIGHTS).write_bytes(b"")
    else:
        (here / "faces").write_bytes(b"")
    found = Path("faces", hub.WEIGHTS) if kind == "weights" else Path("faces")
    with pytest.warns(Notice, match=f"^faces: what is here is loaded, .*{folder / 'faces'}"):
        assert shipped.located("faces", folder=folder) == found


@pytest.mark.parametrize("name", ["mine", "runs/mine", "mine.v2", "./cats"])
def test_of_a_folder_without_a_run_the_weights_are_meant(folder, here, name):
    (here / name).mkdir(parents=True)
    for given in (name, Path(name)):
        assert shipped.located(given, folder=folder) == Path(name)
    (here / name / hub.WEIGHTS).write_bytes(b"")
    for given in (name, Path(name), str(here / name)):
        assert shipped.located(given, folder=folder) == Path(given, hub.WEIGHTS)
    (here / name / "config.json").write_text("{}")
    for given in (name, Path(name)):
        assert shipped.located(given, folder=folder) == Path(name)


def test_a_name_as_a_path_is_a_path(folder, here):
    assert shipped.located(Path("cats"), folder=folder) == Path("cats")


def test_words_that_are_nothing(folder, here):
    with pytest.raises(FileNotFoundError) as error:
        shipped.located("face", folder=folder)
    assert str(error.value) == (
        "face: no such workdir, and no such file; did you mean 'faces'? of dictionaries that come "
        "with nid_jax there are cats, faces"
    )
    with pytest.raises(FileNotFoundError, match="^--checkpoint=xyz: no such workdir, and no such"):
        shipped.located("xyz", "--checkpoint", folder)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"dogs"), Path.unlink])
def test_other_weights_than_were_released_are_refused(folder, here, change):
    change(folder / "cats" / hub.WEIGHTS)
    words = re.escape(f"{folder / 'cats' / hub.WEIGHTS}: missing, or not what SHA256SUMS says")
    with pytest.raises(ValueError, match=words):
        shipped.located("cats", folder=folder)
    assert shipped.located("faces", folder=folder).exists()


def test_those_of_the_package_are_whole_small_and_described(here):
    assert list(shipped.sums()) == NAMES
    total = 0
    for name in NAMES:
        file = shipped.located(name)
        total += file.stat().st_size
        assert file.stat().st_size <= 2.2e6
        card = file.with_name(hub.CARD).read_text(encoding="utf-8")
        assert f'nid.load("{name}")' in card
        for heading in ("Learned from", "Size", "Rights in the data"):
            assert f"\n## {heading}\n" in card
        assert re.search(r"\n## (PSNR, dB|IoU) of \d+ unseen signals\n", card)
    assert total < 6.5e6


def test_of_those_of_the_package_chairs_alone_are_of_surfaces(here):
    found = [tasks.has_surfaces(one_file.read(shipped.located(name)).config) for name in NAMES]
    assert found == [name == "chairs" for name in NAMES]
    assert not tasks.has_surfaces(ConfigDict())


def test_a_copy_is_read_as_any_other_file(here):
    copy = shutil.copy(shipped.located("faces"), here / "mine.safetensors")
    found = one_file.read(copy)
    assert found.prior is not None
    assert found.signals["shape"] == [25, 25, 1]
