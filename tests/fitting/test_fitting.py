"""Fits of signals that the dictionary never saw: other sizes, patches, colour, router fits."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from nid_jax.commands import drawing
from nid_jax.fields import coordinates
from nid_jax.fitting import scoring


@pytest.fixture(scope="module")
def options(tiny):
    return (*tiny, "--config.prior.num_signals=0")


@pytest.fixture(scope="module")
def patched(call, options, tmp_path_factory):
    """A dictionary of 16x16 patches with a conv router, trained on gray photographs 40x30."""
    workdir = tmp_path_factory.mktemp("patched") / "run"
    data = (
        "--config.data.name=photos",
        "--config.data.gray=true",
        "--config.data.size=(40,30)",
        "--config.data.patch.size=16",
        "--config.data.patch.overlap=4",
    )
    router = (
        "--config.router.kind=conv",
        "--config.router.width=4",
        "--config.router.top_k=3",
    )
    result = call(*options, *data, *router, f"--workdir={workdir}")
    assert result.code == 0, result.err
    return workdir, (*options, *data, f"--workdir={workdir}")


def read(workdir, name):
    """(metrics.json, codes, bias, names) of a fit."""
    folder = workdir / "fits" / name
    with np.load(folder / "codes.npz", allow_pickle=False) as stored:
        arrays = stored["codes"], stored["bias"], stored["names"].tolist()
    return json.loads((folder / "metrics.json").read_text()), *arrays


def succeed(result):
    assert result.code == 0, result.err
    return result


def smooth_picture(size, seed):
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    a, b = np.random.default_rng(seed).uniform(1, 4, 2)
    return (255 * (0.5 + 0.2 * np.sin(a * rows) + 0.2 * np.cos(b * columns))).astype(np.uint8)


# Signals of another size, elsewhere


@pytest.mark.slow
def test_ones_own_pictures_of_another_size(call, options, trained, tmp_path):
    """The dictionary is continuous: 25x25 faces taught it, 31x20 pictures are fitted."""
    for number in range(3):
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(smooth_picture((31, 20), number)).save(tmp_path / "mine" / f"p{number}.png")
    workdir = tmp_path / "elsewhere"
    mine = [
        *options,
        f"--workdir={workdir}",
        f"--checkpoint={trained}",
        "--config.data.name=folder",
        f"--config.data.root={tmp_path / 'mine'}",
        "--config.data.test_fraction=1",
        "--config.data.num_test=0",
        "--config.fit.name=mine",
        "--config.fit.gradient.steps=200",
        "--config.fit.batch_size=2",
    ]
    succeed(call(*mine, "--mode=fit"))
    metrics, codes, bias, names = read(workdir, "mine")
    assert names == ["p0.png", "p1.png", "p2.png"]
    assert codes.shape == (3, 8)
    assert bias.shape == (3, 1)
    assert metrics["psnr"] > 18
    assert metrics["dataset"] == "images in mine"
    succeed(call(*mine, "--mode=eval"))
    again = json.loads((workdir / "fits" / "mine" / "evaluation.json").read_text())
    assert again["psnr"] == pytest.approx(metrics["psnr"], abs=1e-3)
    succeed(call(*mine, "--mode=render", "--config.render.scale=3"))
    (view,) = (workdir / "fits" / "mine" / "render").iterdir()
    assert view.name == "93x60"
    with Image.open(view / "0002_p2.png") as picture:
        assert picture.size == (60, 93)
    # Two fits lie side by side, and the second leaves the first as it was.
    fewer = ("--config.fit.name=fewer", "--config.fit.num_signals=1", "--config.fit.batch_size=1")
    succeed(call(*mine, "--mode=fit", *fewer))
    assert read(workdir, "mine")[1].tobytes() == codes.tobytes()
    assert read(workdir, "fewer")[3] == ["p0.png"]
    np.testing.assert_allclose(read(workdir, "fewer")[1], codes[:1], rtol=1e-3, atol=1e-3)


def test_a_fit_done_again_leaves_nothing_of_the_first(call, options, copied):
    arguments = [*options, f"--workdir={copied}"]
    succeed(call(*arguments, "--mode=render"))
    (folder,) = (copied / "fits").iterdir()
    assert (folder / "render" / "100x100" / "0001_face_081.png").exists()
    succeed(call(*arguments, "--mode=fit", "--config.fit.num_signals=1"))
    assert not (folder / "render").exists()
    assert [path.name for path in (folder / "pictures").iterdir()] == ["0000_face_080.png"]


# Colour and other solvers


@pytest.mark.slow
def test_colour_that_is_not_square(call, options, tmp_path):
    result = call(
        *options,
        f"--workdir={tmp_path}",
        "--config.data.name=photos",
        "--config.data.size=(10,14)",
        "--config.fit.gradient.data=l1",
        "--config.dictionary.kind=independent",
        "--config.dictionary.embedding.kind=identity",
    )
    succeed(result)
    metrics, codes, bias, _ = read(tmp_path, "test")
    assert bias.shape == (2, 3)
    assert metrics["layout"]["grid"] == [10, 14]
    assert metrics["psnr_per_step"] == {}
    succeed(call(*options, f"--workdir={tmp_path}", "--mode=render"))
    (first, _) = sorted((tmp_path / "fits" / "test" / "render" / "40x56").iterdir())
    with Image.open(first) as picture:
        assert picture.size == (56, 40)
        assert picture.mode == "RGB"


def test_psnr_per_step_counts_from_the_start():
    """Hand-made curves of two signals: mean squared residual after every step."""
    residual = np.array([[1e-1, 1e-1], *[[1e-2, 1e-4]] * 6])
    found = scoring.psnr_per_step({"residual": residual})
    assert found == {"0": pytest.approx(10), "5": pytest.approx(30), "6": pytest.approx(30)}
    assert scoring.psnr_per_step({}) == {}


# Patches and routers


def test_patches_are_fitted_apart_and_scored_together(patched):
    workdir, _ = patched
    metrics, codes, _, names = read(workdir, "test")
    # 40x30 in patches of 16 that share 4: rows start at 0, 12, 24 and columns at 0, 12, 14.
    assert metrics["layout"]["pieces"] == [9, 9]
    assert codes.shape == (18, 8)
    assert names[0].endswith("/0_0")
    assert names[8].endswith("/24_14")
    assert metrics["signals"] == 2
    assert len(metrics["psnr_per_signal"]) == 2
    with Image.open(workdir / "fits" / "test" / "comparison.png") as picture:
        assert picture.size[0] > 3 * 30
    assert len(list((workdir / "fits" / "test" / "pictures").iterdir())) == 2


@pytest.mark.slow
def test_patches_are_stitched_when_rendered(call, patched):
    workdir, arguments = patched
    succeed(call(*arguments, "--mode=render", "--config.render.scale=2"))
    pictures = sorted((workdir / "fits" / "test" / "render" / "80x60").iterdir())
    assert len(pictures) == 2
    with Image.open(pictures[0]) as picture:
        assert picture.size == (60, 80)
        rendered = np.asarray(picture).astype(float) / 255
    # No seam: across patch borders neighbours differ no more than elsewhere.
    steps = np.abs(np.diff(rendered, axis=0)).max(1)
    assert steps.max() < 4 * np.median(steps) + 0.05
    for option in ("shape=(64,64)", "window=((-1,0),(-1,0))"):
        result = call(*arguments, "--mode=render", f"--config.render.{option}")
        assert "signals in patches take render.scale only" in result.complaint()


@pytest.mark.parametrize("scale", [1, 3, 5])
def test_finer_patches_meet(scale):
    """Samples of patches side by side, in pixels of the whole: evenly spaced across the border."""
    window = drawing._patch_window((16, 9), scale)
    axes = coordinates.grid((16 * scale, 9 * scale), window).reshape(16 * scale, 9 * scale, 2)
    rows, columns = axes[:, 0, 0], axes[0, :, 1]
    np.testing.assert_allclose(rows[scale // 2 :: scale], np.linspace(-1, 1, 16), atol=1e-6)
    np.testing.assert_allclose(columns[scale // 2 :: scale], np.linspace(-1, 1, 9), atol=1e-6)
    pixels = np.concatenate([(rows + 1) * 7.5, (rows + 1) * 7.5 + 16])
    np.testing.assert_allclose(np.diff(pixels), 1 / scale, atol=1e-5)


@pytest.mark.slow
def test_a_number_of_signals_counts_whole_ones(call, patched):
    workdir, arguments = patched
    some = ["--mode=fit", "--config.fit.num_signals=1", "--config.fit.name=one"]
    succeed(call(*arguments, *some))
    metrics, codes, _, _ = read(workdir, "one")
    assert (metrics["signals"], len(codes)) == (1, 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices", "active"),
    [
        ("predicted", ["solver=router", "top_k=3"], 3),
        ("from-router", ["gradient.init=router"], 8),
        ("from-router-sparse", ["gradient.init=router", "top_k=3"], 3),
        ("of-router", ["gradient.variables=router", "top_k=3"], 3),
        ("on-its-support", ["solver=router+ridge", "top_k=3"], 3),
    ],
)
def test_fits_with_a_router(call, patched, name, choices, active):
    workdir, arguments = patched
    chosen = [f"--config.fit.{choice}" for choice in choices]
    succeed(call(*arguments, "--mode=fit", f"--config.fit.name={name}", *chosen))
    metrics, codes, _, _ = read(workdir, name)
    assert metrics["active_experts"] <= active
    assert (codes != 0).any(-1).all()
    assert math.isfinite(metrics["psnr"])
    if "gradient" in choices[0]:
        per_step = metrics["psnr_per_step"]
        assert list(per_step) == ["0", "5"]
        assert per_step["5"] > per_step["0"]


@pytest.mark.slow
def test_gradient_begins_where_the_router_ended(call, patched):
    workdir, arguments = patched
    arguments = [*arguments, "--mode=fit"]
    succeed(call(*arguments, "--config.fit.name=a", "--config.fit.solver=router"))
    chosen = ["--config.fit.gradient.init=router", "--config.fit.gradient.steps=0"]
    succeed(call(*arguments, "--config.fit.name=b", *chosen))
    first, second = (read(workdir, name)[1] for name in "ab")
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-6)


def test_a_router_says_which_signals_it_takes(call, options, tmp_path):
    arguments = [*options, f"--workdir={tmp_path}", "--config.router.kind=linear"]
    succeed(call(*arguments, "--mode=train"))
    other = [
        "--config.data.resize=true",
        "--config.data.size=(20,20)",
        "--config.fit.solver=router",
    ]
    result = call(*arguments, "--mode=fit", *other)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert "router.kind: linear was built for signals of shape (25, 25, 1)" in last
    assert not (tmp_path / "fits").exists()
