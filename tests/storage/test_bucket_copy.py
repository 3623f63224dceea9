"""Copies of workdirs in a bucket: what goes up and down, and when it is refused."""

import json
import sys
import warnings

import fsspec
import pytest

from nid_jax.notices import Notice
from nid_jax.storage import bucket, bucket_copy, lock
from nid_jax.storage.bucket_copy import downloaded, worked_on

URL = "memory://pail/run"
MARK = "checkpoints/3/_CHECKPOINT_METADATA"
pytestmark = [
    pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice"),
    pytest.mark.usefixtures("objects"),
]


def names(store):
    """What the workdir there holds, but for what is hidden."""
    found = (name.removeprefix("/pail/run/") for name in store)
    return sorted(name for name in found if not name.startswith("."))


def put(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def checkpoint(folder, step, text="weights"):
    put(folder / "checkpoints" / str(step), model__d=text, _CHECKPOINT_METADATA="{}")


def there():
    with worked_on(URL, "--workdir") as folder:
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_other_paths_are_left_alone(tmp_path):
    for path in (tmp_path, str(tmp_path), "run", 7):
        with worked_on(path, "workdir") as folder:
            assert folder is path
        assert downloaded(path, "path") is path


def test_another_machine_goes_on(on, objects):
    with worked_on(URL, "--workdir") as folder:
        put(folder, config="1", fits__a__codes="2", cache__big="3", fits__a__x="gone soon")
        put(folder, **{".tmp-1-x": "4"}, checkpoints="")
        (folder / "checkpoints").unlink()
        checkpoint(folder, 3)
        put(folder / "checkpoints" / "6.orbax-checkpoint-tmp", model__d="half")
    whole = ["checkpoints/3/_CHECKPOINT_METADATA", "checkpoints/3/model/d"]
    assert names(objects) == [*whole, "config", "fits/a/codes", "fits/a/x"]
    on("second")
    with worked_on(URL, "--workdir") as folder:
        assert (folder / "fits/a/codes").read_text() == "2"
        put(folder, config="11")
        (folder / "fits/a/x").unlink()
        checkpoint(folder, 6)
        for path in (folder / "checkpoints" / "3").glob("*"):
            path.unlink() if path.is_file() else [one.unlink() for one in path.iterdir()]
    on("first")
    found = there()
    assert found.pop("cache/big") == "3"
    assert {name for name in found if not name.startswith((".", "checkpoints/6.orbax"))} == {
        "config",
        "fits/a/codes",
        "checkpoints/6/model/d",
        "checkpoints/6/_CHECKPOINT_METADATA",
    }
    assert found["config"] == "11"


def test_only_what_changed_goes_up_and_down(on, monkeypatch):
    moved = []
    for way in ("upload", "download"):
        plain = getattr(bucket.Bucket, way)

        def counted(self, name, path, plain=plain, way=way):
            moved.append((way, name))
            plain(self, name, path)

        monkeypatch.setattr(bucket.Bucket, way, counted)
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1", b="2")
    assert sorted(moved) == [("upload", "a"), ("upload", "b")]
    moved.clear()
    with worked_on(URL, "--workdir") as folder:
        put(folder, b="22")
    assert moved == [("upload", "b")]
    on("second")
    moved.clear()
    with worked_on(URL, "--workdir") as folder:
        put(folder, c="3")
    assert sorted(moved) == [("download", "a"), ("download", "b"), ("upload", "c")]
    on("first")
    moved.clear()
    there()
    assert moved == [("download", "c")]


def test_marks_are_written_last_and_removed_first(on, monkeypatch):
    events = []
    for way in ("write", "remove"):
        plain = getattr(bucket.Bucket, way)

        def noted(self, name, *rest, plain=plain, way=way):
            if not name.startswith("."):
                events.append((way, name))
            plain(self, name, *rest)

        monkeypatch.setattr(bucket.Bucket, way, noted)
    mark, fit = MARK, "fits/a/metrics.json"
    with worked_on(URL, "--workdir") as folder:
        put(folder, **{"metrics.jsonl": "1", fit: "{}", "fits/a/codes.npz": "c"})
        checkpoint(folder, 3)
    assert set(events[:2]) == {("write", "metrics.jsonl"), ("write", "fits/a/codes.npz")}
    assert events[2] == ("write", "checkpoints/3/model/d")
    assert set(events[3:]) == {("write", mark), ("write", fit)}
    events.clear()
    with worked_on(URL, "--workdir") as folder:
        put(folder, **{fit: "{ }", "fits/a/codes.npz": "cc"})
        (folder / mark).unlink()
        (folder / "checkpoints/3/model/d").unlink()
    assert events[:3] == [("remove", fit), ("write", "fits/a/codes.npz"), ("write", fit)]
    assert events[3:] == [("remove", mark), ("remove", "checkpoints/3/model/d")]


def test_half_a_checkpoint_is_left_out_and_replaced_whole(on, objects):
    with worked_on(URL, "--workdir") as folder:
        checkpoint(folder, 3)
    system = fsspec.filesystem("memory")
    system.pipe_file("/pail/run/checkpoints/6/model/other", b"half")
    with (
        warnings.catch_warnings(record=True, action="always") as said,
        worked_on(URL, "--workdir") as folder,
    ):
        assert not (folder / "checkpoints" / "6").exists()
        put(folder, config="1")
    assert "half uploaded and left out: checkpoints/6" in str(said[0].message)
    assert "checkpoints/6/model/other" in names(objects)
    with worked_on(URL, "--workdir") as folder:
        checkpoint(folder, 6)
    assert [name for name in names(objects) if "/6/" in name] == [
        "checkpoints/6/_CHECKPOINT_METADATA",
        "checkpoints/6/model/d",
    ]


class Down:
    """A store that refuses from a moment on."""

    def __init__(self, monkeypatch, after=0):
        self.left = after
        plain = bucket.Bucket.write

        def write(inside, name, content):
            if not name.startswith(".lock"):
                self.left -= 1
                if self.left < 0:
                    with inside._asking(f"{name} cannot be written"):
                        raise ConnectionError("no route to the store")
            plain(inside, name, content)

        monkeypatch.setattr(bucket.Bucket, "write", write)


def failure(names, then=lambda: None):
    """(the one line that comes of work that wrote these files, its copy)."""
    copies = []

    def work():
        with worked_on(URL, "--workdir") as folder:
            copies.append(folder)
            put(folder, **dict.fromkeys(names, "{}"))
            then()

    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        work()
    return str(error.value), copies[0]


@pytest.mark.parametrize("after", range(5))
def test_what_was_not_uploaded_goes_up_later(on, objects, monkeypatch, after):
    with monkeypatch.context() as patch:
        Down(patch, after)
        line, folder = failure(("a", "b", "fits/a/metrics.json", "checkpoints/3/model/d", MARK))
    assert line.startswith(f"{URL}: ")
    assert "ConnectionError: no route to the store" in line
    assert f"what is not uploaded is kept in {folder}, and goes up with the next" in line
    assert len(names(objects)) < 5
    assert len(there()) == len(names(objects)) == 5
    on("second")
    assert sorted(there()) == names(objects)


def test_the_error_under_way_is_the_one_to_hear(on, objects, monkeypatch):
    Down(monkeypatch)

    def fail():
        raise KeyError("under way")

    with pytest.raises(KeyError, match="under way"):
        failure(("a",), fail)
    assert names(objects) == []
    assert "/pail/run/.lock" not in objects


def test_both_sides_changed(on, monkeypatch):
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1")
    with monkeypatch.context() as patch:
        Down(patch)
        _, folder = failure(("a", "b"))
    on("second")
    with worked_on(URL, "--workdir") as other:
        put(other, a="from there")
    on("first")
    refused = "2 changed files of this one, such as a, were not uploaded; allowed once"
    with pytest.raises(ValueError, match=refused), worked_on(URL, "--workdir"):
        pass
    assert (folder / "a").read_text() == "{}"
    folder.rename(folder.with_name("aside"))
    assert there() == {"a": "from there"}


def test_changes_by_hand_in_the_bucket_count(on, objects):
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1", b="2", c="3")
    system = fsspec.filesystem("memory")
    system.pipe_file("/pail/run/a", b"by hand")
    system.rm_file("/pail/run/b")
    assert there() == {"a": "by hand", "c": "3"}
    system.rm("/pail/run", recursive=True)
    assert there() == {}


def test_what_is_gone_here_comes_back_and_never_goes_there(on, objects):
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1", b="2")
    (folder / "a").unlink()
    assert there() == {"a": "1", "b": "2"}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert there() == {"a": "1", "b": "2"}
    assert names(objects) == ["a", "b"]


def test_a_download_that_was_cut_short(on, monkeypatch):
    with worked_on(URL, "--workdir") as folder:
        put(folder, **{f"f{number}": "content" for number in range(20)})
    on("second")
    with monkeypatch.context() as patch:
        plain = bucket.Bucket.download

        def download(self, name, target):
            if name == "f11":
                target.write_text("con")
                raise bucket.BucketError(f"{self.url}: cut")
            plain(self, name, target)

        patch.setattr(bucket.Bucket, "download", download)
        with pytest.raises(ValueError, match="cut"), worked_on(URL, "--workdir"):
            pass
    assert there() == {f"f{number}": "content" for number in range(20)}


def test_names_that_leave_the_folder(on, objects, tmp_path):
    fsspec.filesystem("memory").pipe_file("/pail/run/a/../../../x", b"1")
    with pytest.raises(ValueError, match="which is no name of a file"):
        there()
    assert not list(tmp_path.rglob("x"))


def test_it_is_uploaded_while_work_goes_on(on, objects, monkeypatch):
    monkeypatch.setattr(bucket_copy, "EVERY", 0.01)
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1")
        for _ in range(500):
            if names(objects) == ["a"]:
                break
            lock.time.sleep(0.01)
        assert names(objects) == ["a"]


# One writer


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_second_writer_is_refused(on, monkeypatch, exclusive):
    if not exclusive:  # as some stores are

        def create(self, name, content):
            self.write(name, content)
            return True

        monkeypatch.setattr(bucket.Bucket, "create", create)
    with worked_on(URL, "--workdir") as folder:
        put(folder, a="1")
        again = "work there is under way in process .*; give another --workdir, or wait for it"
        with pytest.raises(lock.Busy, match=again), worked_on(URL, "--workdir"):
            pass
        on("second")
        elsewhere = f"{again.partition('.*')[0]}.* it seems; .* or remove {URL}/.lock; give another"
        with pytest.raises(lock.Busy, match=elsewhere), worked_on(URL, "--workdir"):
            pass
    assert there() == {"a": "1"}


def test_a_writer_that_is_gone(on, objects, monkeypatch):
    with worked_on(URL, "--workdir"):
        left = objects["/pail/run/.lock"].getvalue()
    system = fsspec.filesystem("memory")
    system.pipe_file("/pail/run/.lock", left)
    on("second")
    with pytest.raises(lock.Busy), worked_on(URL, "--workdir"):
        pass
    monkeypatch.setattr(lock, "STALE", 0.0)
    assert there() == {}
    monkeypatch.undo()
    monkeypatch.setattr(lock, "SETTLED", 0.01)
    # Of this very copy nobody else can be at work: no time is waited.
    with worked_on(URL, "--workdir"):
        left = objects["/pail/run/.lock"].getvalue()
    system.pipe_file("/pail/run/.lock", left)
    assert there() == {}


def test_one_that_was_taken_over_writes_no_more(on, objects):
    system = fsspec.filesystem("memory")
    other = {"token": "other", "process": 7, "host": "elsewhere", "started": "now"}
    written = json.dumps(other).encode()
    line, _ = failure(("a",), lambda: system.pipe_file("/pail/run/.lock", written))
    assert f"{URL}: taken over in process 7 on elsewhere since now; what is not uploaded" in line
    assert names(objects) == []
    assert "/pail/run/.lock" in objects


def test_signs_of_life(on, objects, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with worked_on(URL, "--workdir"):
        first = objects["/pail/run/.lock"].modified
        for _ in range(500):
            if objects["/pail/run/.lock"].modified > first:
                break
            lock.time.sleep(0.01)
        assert objects["/pail/run/.lock"].modified > first


# Reading


def test_a_reader_downloads_once_and_asks_nobody(on, monkeypatch):
    with worked_on(URL, "--workdir") as folder:
        put(folder, config="1", fits__a__codes="2", **{"checkpoints/3/training/m": "moments"})
        checkpoint(folder, 3)
        on("second")
        with pytest.raises(FileNotFoundError, match="^path=.*: nothing is there; train into it"):
            downloaded(URL, "path")
    with pytest.warns(Notice, match="read from a copy, .*; 3 files, 0.0 MB, downloaded"):
        found = downloaded(URL, "path")
    assert (found / "config").read_text() == "1"
    assert sorted(path.name for path in found.iterdir()) == ["checkpoints", "config"]
    assert not (found / "checkpoints/3/training").exists()
    with pytest.warns(Notice, match="nothing to download"):
        assert downloaded(URL, "path") == found
    with worked_on(URL, "--workdir") as folder:
        put(folder, config="other")
        (folder / "checkpoints/3/_CHECKPOINT_METADATA").unlink()
    assert (downloaded(URL, "path") / "config").read_text() == "other"
    assert not list(found.rglob("d"))


def test_one_file(on, objects):
    system = fsspec.filesystem("memory")
    for name in ("a.safetensors", "b.safetensors", "large"):
        system.pipe_file(f"/pail/{name}", name.encode())
    for name in ("a.safetensors", "b.safetensors"):
        assert downloaded(f"memory://pail/{name}", "path").read_text() == name
    with pytest.raises(FileNotFoundError, match="^path=memory://pail/c.safetensors: nothing"):
        downloaded("memory://pail/c.safetensors", "path")


# What cannot be


@pytest.mark.parametrize("path", ["ftp://host/run", "hf+x://y", "file:///tmp/x", "gs://", "s3:/"])
def test_places_that_are_none(on, path):
    allowed = "allowed: a path of this machine, gs://BUCKET/FOLDER, s3://BUCKET/FOLDER"
    with pytest.raises(ValueError, match=allowed) as failure, worked_on(path, "--workdir"):
        pass
    assert str(failure.value).startswith(f"--workdir={path}: ")
    with pytest.raises(ValueError, match=allowed):
        downloaded(path, "path")


@pytest.mark.parametrize(("url", "package"), [("gs://b/run", "gcsfs"), ("s3://b/run", "s3fs")])
def test_a_package_that_is_missing(on, monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package, None)
    needed = f"^--workdir={url}: needs the package {package}: pip install 'nid_jax.remote.'$"
    with pytest.raises(ValueError, match=needed), worked_on(url, "--workdir"):
        pass


def test_one_spelling_of_a_place():
    assert bucket.url_of("gs:/b/run/") == bucket.url_of("gs://b/run") == "gs://b/run"
