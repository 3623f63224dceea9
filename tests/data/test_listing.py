"""Files of a folder: what is read, what is passed over and how that is said."""

import os

import pytest

from nid_jax.data.listing import find_files
from nid_jax.notices import Notice


def names(directory, *extensions, **options):
    found = find_files(directory, extensions or (".png",), "picture", **options)
    return [path.relative_to(directory).as_posix() for path in found]


def test_sorted_below_every_folder_and_silent_where_all_is_read(tmp_path, recwarn):
    for name in ("b.png", "a/c.PNG", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.png", "a/c.PNG", "b.png"]
    assert not recwarn.list


def test_everything_else_is_counted_by_reason(tmp_path):
    for name in ("a.png", "b.heic", "c.heic", "notes.txt", "README", ".hidden.png"):
        (tmp_path / name).touch()
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(Notice) as said:
        assert names(tmp_path, needs={".heic": "pillow-heif"}) == ["a.png"]
    (line,) = said
    assert str(line.message) == (
        f"{tmp_path}: 1 picture; passed over: 2 .heic (needs pillow-heif), 1 .txt, 3 hidden, "
        "1 links that lead nowhere, 1 without extension"
    )


def test_links_are_followed_and_each_target_is_taken_once(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    inside = tmp_path / "inside"
    for folder in (elsewhere, inside):
        folder.mkdir()
    (elsewhere / "far.png").touch()
    (inside / "near.png").touch()
    (inside / "a_link.png").symlink_to(inside / "near.png")
    (inside / "linked").symlink_to(elsewhere)
    (inside / "again").symlink_to(inside)
    with pytest.warns(Notice, match="1 repeated by links"):
        assert names(inside) == ["linked/far.png", "near.png"]


def test_closed_folders_and_pipes_are_counted_as_what_they_are(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    os.mkfifo(tmp_path / "b.png")
    real = os.scandir

    def scandir(place):
        if os.fspath(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    counted = "1 folders that may not be read, 1 pipes, sockets or devices"
    with pytest.warns(Notice, match=f"1 picture; passed over: {counted}"):
        assert names(tmp_path) == ["a.png"]
