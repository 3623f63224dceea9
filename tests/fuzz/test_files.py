"""Files that lie end in one line: all made by hand, and some damaged copies of each format.

experiments/mutated_files.py reads thousands.
"""

import pytest

from nid_jax import bounds
from tests.fuzz import formats, hostile, mutations, running, workdirs

# Read in a test of their own, each in a process that is thrown away.
COPIES = 3
# What takes seconds to make or to read: bombs of a GiB.
SLOW = {
    *("npz of a GiB of zeros", "mat of a GiB of zeros", "idx gz of a GiB", "dicom that unfolds"),
    *("3mf that unfolds", "dae that unfolds", "checkpoint that unfolds", "npz packed by lzma"),
    *("csv of 1e5 columns", "csv of one long word", "checkpoint of 10^7 steps"),
    *(
        "checkpoint of many views",
        "png of a GiB of text",
        "png of a profile that unfolds",
        "text of one long number",
    ),
}
# Harmless as they are, and read: what they say too much is not looked at.
READ = {
    *("text of one long number", "apng of 4e9 frames", "pfm of NaN", "tiff of a strip of 4 GB"),
    *("tiff whose pages go round", "dicom of 4 GB in a tag"),
}


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    monkeypatch.setenv(bounds.VARIABLE, str(running.LIMIT_BYTES / 2**30))


def written(tmp_path, name, content):
    found = formats.PLAIN[name]
    path = tmp_path / found.file
    if name in ("celeba", "gltf"):
        found.make(path)  # with the files beside it
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", sorted(set(hostile.CASES) - SLOW))
def test_files_made_by_hand(tmp_path, name):
    kind, make = hostile.CASES[name]
    path = written(tmp_path, kind, make())
    found = running.outcome(formats.PLAIN[kind].read, path)
    assert found.kind == ("read" if name in READ else "refused"), found.words


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_large_files_made_by_hand(tmp_path, name):
    test_files_made_by_hand(tmp_path, name)


# Of the extras meshes and pictures, without which nothing of the kind is made or read.
PACKAGES = {"3mf": "lxml", "xaml": "lxml", "dae": "collada", "heic": "pillow_heif"}


@pytest.mark.parametrize("name", sorted(set(formats.PLAIN) - {"mp4", "lpips"}))
def test_damaged_copies(tmp_path, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    one = formats.PLAIN[name]
    path = tmp_path / one.file
    one.make(path)
    honest = path.read_bytes()
    one.read(path)
    copies = list(mutations.empty_and_wrong(honest, {}))
    copies += [mutations.mutated(honest, 100 + copy) for copy in range(COPIES)]
    for number, (done, content) in enumerate(copies):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = running.outcome(one.read, written(folder, name, content))
        assert found.kind != "fault", f"{done}: {found.words}"


@pytest.mark.slow
def test_damaged_workdirs(tmp_path):
    root = workdirs.make(tmp_path)
    for name, one in workdirs.files().items():
        paths = [root / one.file]
        if name == workdirs.CHECKPOINT:
            paths = workdirs.checkpoint_files(root)
        for path in paths:
            honest = path.read_bytes()
            one.read(path)
            copies = list(mutations.empty_and_wrong(honest, {}))
            for done, content in [*copies, mutations.mutated(honest, 3)]:
                path.write_bytes(content)
                found = running.outcome(one.read, path, named=workdirs.RUN)
                assert found.kind != "fault", f"{name}, {path}, {done}: {found.words}"
            path.write_bytes(honest)


def test_mutated_files_are_the_same_for_the_same_seed():
    honest = bytes(range(256)) * 4
    first = [mutations.mutated(honest, seed) for seed in range(70)]
    assert first == [mutations.mutated(honest, seed) for seed in range(70)]
    assert len({content for _, content in first}) > 60
    assert sum(content == honest for _, content in first) < 3


class TestWhatCountsAsAFault:
    """A harness that finds no fault is none."""

    def test_results_and_lines_do_not(self, tmp_path):
        def refuse(path):
            raise ValueError(f"{path}: no")

        assert running.outcome(lambda path: 3, tmp_path / "a").kind == "read"
        assert running.outcome(refuse, tmp_path / "a").kind == "refused"

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (KeyError("x"), "KeyError"),
            (MemoryError(), "MemoryError"),
            (ValueError("{}: one\ntwo"), "several lines"),
            (ValueError("somewhere"), "names no file"),
        ],
    )
    def test_other_errors_do(self, tmp_path, error, words):
        def fail(path):
            said = [str(arg).format(path) for arg in error.args]
            raise type(error)(*said)

        found = running.outcome(fail, tmp_path / "a.txt")
        assert (found.kind, words in found.words) == ("fault", True)

    def test_memory_and_time_do(self, tmp_path):
        def fill(path):
            return bytes(2**33)

        def wait(path):
            while True:
                pass

        assert "MemoryError" in running.outcome(fill, tmp_path / "a").words
        assert "more than 1 s" in running.outcome(wait, tmp_path / "a", 1).words
