"""Files are whole or absent, and refusals of the system one line."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nid_jax import files
from nid_jax.files import atomic_folder, atomic_path


def leftovers(folder):
    return [path.name for path in Path(folder).rglob("*") if ".tmp" in path.name]


def one_line(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


def test_atomic_path_appears_only_when_complete(tmp_path):
    target = tmp_path / "a" / "codes.npz"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".npz"
        assert temporary.parent == target.parent
        np.savez(temporary, codes=np.arange(3))
        assert not target.exists()
    with np.load(target, allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["codes"], np.arange(3))
    assert leftovers(tmp_path) == []


def half_write(target):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError("the writer broke")


def test_atomic_path_keeps_the_old_file_when_the_writer_fails(tmp_path):
    target = tmp_path / "summary.json"
    target.write_text("old")
    with pytest.raises(KeyError, match="the writer broke"):
        half_write(target)
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_what_a_library_writes_for_one_user_is_as_open_as_other_files(tmp_path):
    (tmp_path / "other").touch()
    with atomic_path(tmp_path / "new") as temporary:
        temporary.touch(0o600)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["new", "other"]


def test_atomic_path_without_a_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        pass


def write_against(target, code):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_no_space_and_no_permission_name_the_file(tmp_path, code):
    target = tmp_path / "report.html"
    with pytest.raises(ValueError, match="cannot be written") as excinfo:
        write_against(target, code)
    assert one_line(excinfo).startswith(str(target))
    assert os.strerror(code) in str(excinfo.value)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    target = tmp_path / "big"

    def fill():
        with atomic_path(target) as temporary:
            temporary.symlink_to("/dev/full")  # every write to it meets a full disk
            temporary.write_bytes(b"x" * 10)

    with pytest.raises(ValueError, match="No space left on device"):
        fill()
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_system_pass_through(tmp_path):
    with pytest.raises(TimeoutError):
        write_against(tmp_path / "x", errno.ETIMEDOUT)


def fill_folder(target, broken=False):
    with atomic_folder(target) as temporary:
        (temporary / "codes.npz").write_text("new")
        if broken:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "fits" / "omp"
    with pytest.raises(ValueError, match="No space left on device") as excinfo:
        fill_folder(target, broken=True)
    assert one_line(excinfo).startswith(str(target))
    assert os.listdir(tmp_path / "fits") == []
    fill_folder(target)
    (target / "old.png").write_text("of the first fit")
    with pytest.raises(ValueError, match="No space left on device"):
        fill_folder(target, broken=True)
    assert sorted(os.listdir(target)) == ["codes.npz", "old.png"]
    fill_folder(target)
    assert os.listdir(target) == ["codes.npz"]
    assert os.listdir(tmp_path / "fits") == ["omp"]


SCHEMES = [
    "gs://bucket/run",
    "s3://bucket/x.npy",
    "file:///tmp/x",
    "memory://x",
    "gs:/b",
    "hf+x://y",
]


@pytest.mark.parametrize("path", SCHEMES)
def test_places_elsewhere_are_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    allowed = "is no place that can be read or written here; allowed: a path of this machine"
    with pytest.raises(ValueError, match=f"^--workdir={re.escape(path)}: .*{allowed}"):
        files.local(path, "--workdir")
    # A Path has one slash left.
    for opened in (files.atomic_path(Path(path)), files.atomic_folder(path)):
        with pytest.raises(ValueError, match=allowed), opened:
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", ["run", "/tmp/a:b", "C:/runs", r"C:\runs", "./gs:/x", "a:b", "1:/x"]
)
def test_paths_of_this_machine(path):
    assert files.local(path, "--workdir") == Path(path)
    assert files.local("~/x", "--workdir") == Path.home() / "x"


@pytest.mark.parametrize(
    ("name", "short"),
    [("chair 1 é", "chair 1 é"), ("../a\n\x1b[1m", ".._a__[1m"), ("\udcffa", "_a"), ("", "")],
)
def test_short_names_are_harmless(name, short):
    assert files.short_name(name) == short
    assert len(files.short_name("\N{MATHEMATICAL BOLD CAPITAL A}" * 300).encode()) == 160


# Killed at any point

KILLED = """
import os, sys
from pathlib import Path
from nid_jax import files

root = Path(sys.argv[1])

def replace(target, point, together):
    calls = iter(range(99))
    def dying(function):
        def call(*arguments):
            if next(calls) == point:
                os._exit(9)
            found = function(*arguments)
            if next(calls) == point:
                os._exit(9)
            return found
        return call
    exchanged = files._exchanged if together else (lambda first, second: False)
    files._exchanged = dying(exchanged)
    files._remove = dying(files._remove)
    Path.replace = dying(Path.replace)
    with files.atomic_folder(target) as folder:
        (folder / "codes").write_text("new")
    os._exit(0)

for together in (True, False):
    for point in range(20):
        target = root / f"{together}{point:02d}" / "omp"
        target.mkdir(parents=True)
        (target / "codes").write_text("old")
        child = os.fork()
        if not child:
            replace(target, point, together)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
"""


def test_killed_anywhere_the_earlier_folder_or_the_new_one_is_there(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    held = {}
    for folder in sorted(tmp_path.iterdir()):
        before = (folder / "omp").exists()
        left = len(os.listdir(folder)) - before
        files.recover(folder, lambda process, name: name == "omp" and not files.running(process))
        assert os.listdir(folder) == ["omp"]
        assert os.listdir(folder / "omp") == ["codes"]
        held.setdefault(folder.name[:-2], []).append(
            (before, left, (folder / "omp/codes").read_text())
        )
    for kind, found in held.items():
        assert [text for *_, text in found] == sorted((text for *_, text in found), reverse=True)
        assert {text for *_, text in found} == {"old", "new"}, kind
        assert found[-1] == (True, 0, "new")  # not killed
    # Two renames leave a moment without; one exchange does not.
    assert not all(before for before, *_ in held["False"])
    if files._exchanged(tmp_path / "True00", tmp_path / "True01"):
        assert all(before for before, *_ in held["True"])


def test_a_second_rename_that_fails_gives_the_earlier_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "omp"
    fill_folder(target)
    (target / "old.png").touch()
    rename = Path.replace

    def refuse(path, other):
        if path.name.startswith(".tmp-"):
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, other)

    monkeypatch.setattr(files, "_exchanged", lambda first, second: False)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ValueError, match="Permission denied"):
        fill_folder(target)
    assert os.listdir(tmp_path) == ["omp"]
    assert sorted(os.listdir(target)) == ["codes.npz", "old.png"]


def test_what_is_not_known_to_be_gone_stays(tmp_path):
    names = [f".tmp-{os.getpid()}-01234567-x.png", ".tmp-1-0123456-x.png", ".tmp-x", ".old-stuff"]
    for name in names:
        (tmp_path / name).touch()
    files.recover(tmp_path, lambda process, name: not files.running(process))
    assert sorted(os.listdir(tmp_path)) == sorted(names)
