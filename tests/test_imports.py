"""Imports run downwards only; the order is read from the files themselves."""

import ast
import configparser
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each may import what stands before it.
ORDER = (
    "running",
    "configs",
    "errors",
    "notices",
    "bounds",
    "npy_files",
    "json_files",
    "files",
    "ffmpeg",
    "numerics",
    "devices",
    "platforms",
    "geometry",
    "fields",
    "sharding",
    "coding",
    "metrics",
    "baselines",
    "data",
    "storage",
    "settings",
    "fitting",
    "reporting",
    "training",
    "tasks",
    "interop",
    "neural_dictionary",
    "learning",
    "commands",
    "cli",
    "demo",
    "__main__",
)
# Neighbours that know nothing of one another.
APART = {
    ("files", "errors"),
    ("notices", "errors"),
    ("ffmpeg", "errors"),
    ("ffmpeg", "files"),
    *((room, "notices") for room in ("files", "ffmpeg", "numerics", "platforms", "devices")),
    *(
        (room, "configs")
        for room in (
            "errors",
            "ffmpeg",
            "numerics",
            "platforms",
            "devices",
            "geometry",
            "fields",
            "sharding",
            "coding",
        )
    ),
    ("numerics", "errors"),
    ("numerics", "files"),
    *(("platforms", room) for room in ("errors", "files", "ffmpeg", "numerics")),
    ("devices", "errors"),
    ("devices", "numerics"),
    ("baselines", "metrics"),
    ("data", "metrics"),
    ("data", "baselines"),
    ("storage", "baselines"),
    ("storage", "data"),
    ("storage", "metrics"),
}
ALLOWED = {
    room: {other for other in ORDER[:place] if (room, other) not in APART}
    for place, room in enumerate(ORDER)
}
FILES = sorted((ROOT / "nid_jax").rglob("*.py"))


def imported(path):
    """Names of the modules that a file imports, wherever in it; 'a.b' for `from a import b`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def parts_of(names):
    """The parts of nid_jax among imported names."""
    inside = [name.split(".") for name in names if name.split(".")[0] == "nid_jax"]
    assert all(len(words) > 1 for words in inside), "import a part of nid_jax, not the whole"
    return {words[1] for words in inside} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    words = path.relative_to(ROOT / "nid_jax").with_suffix("").parts
    if words == ("__init__",):
        assert parts_of(imported(path)) == set()
        return
    assert words[0] in ALLOWED, f"{words[0]} has no place in the order yet"
    if words[0] == "demo":  # comes in by the door that everyone has, nid_jax itself
        return
    above = parts_of(imported(path)) - ALLOWED[words[0]] - {words[0]}
    assert not above, f"{words[0]} must not import {', '.join(sorted(above))}"


def test_the_reading_of_imports_sees_every_kind(tmp_path):
    source = "import nid_jax.data.images\ndef f():\n    from nid_jax import tasks\nimport os\n"
    (tmp_path / "example.py").write_text(source)
    assert parts_of(imported(tmp_path / "example.py")) == {"data", "tasks"}


CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configs_are_plain_numbers(path):
    names = imported(path)
    assert parts_of(names) <= {"configs"}
    elsewhere = {name.split(".")[0] for name in names} - {"nid_jax"}
    allowed = {"difflib", "json", "ml_collections", "math", "pathlib"}
    if path == ROOT / "configs" / "__init__.py":
        # It finds them by name, and defines the option that does.
        allowed |= {"absl", "importlib", "re", "sys", "traceback"}
    assert elsewhere <= allowed


def test_main_knows_the_command_line_only():
    assert parts_of(imported(ROOT / "main.py")) == {"__main__"}


@pytest.mark.parametrize("room", ["data", "geometry"])
def test_rooms_that_need_no_jax(room):
    for path in (ROOT / "nid_jax" / room).glob("*.py"):
        assert "jax" not in {name.split(".")[0] for name in imported(path)}, path.name


def test_what_takes_signals_imports_the_standard_library_alone():
    """It comes before every other import, and the sieve of standard error runs as a script."""
    running = ROOT / "nid_jax" / "running"
    assert imported(running / "__init__.py") == []
    for name in ("stopping", "sifting"):
        rooms = {words.split(".")[0] for words in imported(running / f"{name}.py")}
        assert rooms <= sys.stdlib_module_names, name


def packages_of(folder, name):
    """Names of the packages at and below a folder that is itself the package `name`."""
    inside = [path.parent.relative_to(folder) for path in folder.rglob("__init__.py")]
    return {".".join([name, *place.parts]) for place in inside}


def test_every_package_is_installed():
    """setup.cfg lists packages by hand, and what it forgets is missing from the wheel only."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = settings["options"]["packages"].split()
    there = packages_of(ROOT / "nid_jax", "nid_jax")
    there |= packages_of(ROOT / "configs", "nid_jax.configs")
    assert len(listed) == len(set(listed))
    assert set(listed) == there


def test_packages_are_found_at_every_depth(tmp_path):
    for place in (".", "a", "a/b"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "__init__.py").touch()
    (tmp_path / "no_package").mkdir()
    assert packages_of(tmp_path, "top") == {"top", "top.a", "top.a.b"}
