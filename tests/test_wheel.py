"""What is built and installed is all there is: the wheel alone runs the demo."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from nid_jax.storage import shipped

ROOT = Path(__file__).resolve().parents[1]
# Folders of a checkout that a build would only copy.
LEFT_OUT = (".git", ".venv*", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


def done(*command, **options):
    """The output of a command, which is to succeed."""
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=900, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository to build in: a build leaves traces, and links are no packages."""
    folder = tmp_path_factory.mktemp("source") / "nid_jax"
    ignored = shutil.ignore_patterns(*LEFT_OUT)

    def ignore(directory, names):
        inside = Path(directory) == ROOT / "nid_jax"
        return ignored(directory, names) | ({"configs"} & set(names) if inside else set())

    shutil.copytree(ROOT, folder, ignore=ignore)
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    """The file of the wheel."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    done(*pip, "--wheel-dir", source.parent, source)
    (found,) = source.parent.glob("*.whl")
    return found


@pytest.mark.slow
def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(points).decode()
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nid_jax").rglob("*.py")}
    wanted |= {
        f"nid_jax/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*.py")
    }
    names_of_weights = (f"nid_jax/dictionaries/{n}/model.safetensors" for n in shipped.sums())
    wanted |= {"nid_jax/py.typed", "nid_jax/dictionaries/SHA256SUMS", *names_of_weights}
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {"nid_jax", metadata.split("/")[0]}
    assert "# nid_jax" in described
    assert "Description-Content-Type: text/markdown" in described
    assert re.search(r"nid_jax\s*=\s*nid_jax\.__main__:run", commands)


@pytest.mark.slow
def test_the_source_holds_what_tests_need(source):
    build = "import setuptools.build_meta as build, sys; build.build_sdist(sys.argv[1])"
    done(sys.executable, "-c", build, source.parent, cwd=source)
    (found,) = source.parent.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kept = ("tests/**/*.py", "configs/**/*.py", "experiments/**/*.py", "nid_jax/**/*.py")
    kept += ("nid_jax/dictionaries/**/*.*", "*.md", "CITATION.cff", ".pre-commit-config.yaml")
    wanted = {p.relative_to(source).as_posix() for pattern in kept for p in source.glob(pattern)}
    assert wanted | {"main.py", "Makefile", "setup.cfg", "README.md", ".ci/oldest.py"} <= names


@pytest.mark.slow
def test_the_index_would_take_the_wheel(wheel):
    pytest.importorskip("twine")
    assert "PASSED" in done(sys.executable, "-m", "twine", "check", "--strict", wheel)


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel, tmp_path):
    """In an empty folder, from the wheel, with the libraries of this environment."""
    done(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (place,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    done(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # A line of a .pth file that is a folder is searched last, and .pth files inside it, such as
    # that of an editable nid_jax, are not read.
    (place / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    here = {"cwd": empty, "env": environment}
    for module in ("nid_jax", "nid_jax.configs", "nid_jax.configs.image"):
        printed = done(python, "-c", f"import {module} as m; print(m.__file__)", **here)
        assert Path(printed.strip()).is_relative_to(place)
    filled = (
        "import nid_jax as nid, numpy as np; y = np.full((1, 25, 25), np.nan); y[:, ::3] = 0.5;"
        "print(nid.load('faces').fit(y).render((50, 50)).shape)"
    )
    assert "(1, 50, 50, 1)" in done(python, "-c", filled, **here)
    command = tmp_path / "venv" / "bin" / "nid_jax"
    done(command, "--config=image:cpu", "--workdir=w", **here)
    metrics = json.loads((empty / "w" / "fits" / "test" / "metrics.json").read_text())
    assert metrics["solver"] == "ridge"
    assert metrics["psnr"] == pytest.approx(27.90, abs=0.05)
    assert metrics["active_experts"] == 256
    assert (empty / "w" / "report.html").exists()


def test_the_lowest_versions_are_pins():
    """make test-oldest installs what setup.cfg admits and no other."""
    printed = done(sys.executable, ROOT / ".ci" / "oldest.py").splitlines()
    assert "jax==0.10.2" in printed
    assert "imageio[ffmpeg]==2.34" in printed
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?==[\d.]+", line) for line in printed)
    inside = "[options]\ninstall_requires =\n    numpy\n"
    found = subprocess.run(
        [sys.executable, "-c", f"import oldest; oldest.oldest({inside!r})"],
        cwd=ROOT / ".ci",
        capture_output=True,
        text=True,
    )
    assert "setup.cfg: 'numpy'; allowed: NAME >= VERSION" in found.stderr
