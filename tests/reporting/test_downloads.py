"""Links to files beside the page work whatever their names, and there are few of them."""

import os
import urllib.parse
import urllib.request

import pytest

from nid_jax.reporting import downloads

ODD = [
    "a#b?c.ply",
    "100%.ply",
    "two words.ply",
    "größe.ply",
    "a:b.ply",
    "x\udcffy.ply",
    "a&b<c>.ply",
]


def followed(link, page):
    """The file that a browser opens from a page by a link."""
    base = "file://" + urllib.parse.quote(os.fsencode(page)) + "/report.html"
    address = urllib.parse.urljoin(base, link)
    path = urllib.parse.urlsplit(address)
    assert (path.query, path.fragment) == ("", "")
    return os.fsdecode(urllib.parse.unquote_to_bytes(path.path))


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_found_again(tmp_path, name):
    for folder in (tmp_path, tmp_path / "fits" / name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x") if folder is tmp_path else None
        target = folder / name if folder is tmp_path else folder
        link = downloads.link(target, tmp_path)
        assert link.isascii()
        assert os.path.samefile(followed(link, tmp_path), target)
        assert link.endswith("/") == target.is_dir()


def test_files_of_a_fit_are_listed_and_of_many_the_first(tmp_path):
    folder = tmp_path / "fits" / "a#1"
    for name in ("meshes", "reconstructions", "views", ".hidden", "empty", "more"):
        (folder / name).mkdir(parents=True)
    (folder / "codes.npz").write_bytes(bytes(2048))
    (folder / "side_by_side.gif").write_bytes(b"1")
    for number in range(150):
        (folder / "reconstructions" / f"{149 - number:04d}_x.png").touch()
    (folder / "meshes" / "0000_a b.ply").touch()
    (folder / "more" / "1.png").touch()
    found = {entry["name"]: entry for entry in downloads.of_fit(folder, tmp_path)}
    assert list(found) == [
        "codes.npz",
        "side_by_side.gif",
        "meshes/",
        "reconstructions/",
        "more/",
    ]
    assert found["codes.npz"]["size"] == "2.0 KiB"
    assert found["codes.npz"]["link"] == "fits/a%231/codes.npz"
    assert found["meshes/"]["files"] == [("0000_a b.ply", "fits/a%231/meshes/0000_a%20b.ply")]
    assert found["meshes/"]["open"]
    many = found["reconstructions/"]
    assert many["size"] == "150 files"
    assert not many["open"]
    assert [name for name, _ in many["files"]] == [f"{n:04d}_x.png" for n in range(downloads.FEW)]
    assert downloads.of_fit(tmp_path / "nowhere", tmp_path) == []
