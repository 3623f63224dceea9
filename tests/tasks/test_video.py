"""The task video through the command line: what it writes, renders and refuses."""

import json
import runpy
import shutil

import imageio.v3
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from nid_jax import data, tasks
from nid_jax.data import to_array
from nid_jax.notices import Notice
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import video
from nid_jax.training import loop

CONFIG = "configs/video.py"
SMALL = ("--config.train.steps=4", "--config.fit.robust.steps=5")
SIZE = "--config.data.size=(8,12)"


def configured(root, variant="smoke"):
    return runpy.run_path(str(root / CONFIG))["get_config"](variant)


@pytest.fixture
def run(call, pytestconfig, tmp_path):
    """run(*options, variant, mode, size) -> Result; the workdir is tmp_path / 'run'."""

    def command(*options, variant="smoke", mode="run", size=SIZE):
        config = f"--config={pytestconfig.rootpath / CONFIG}:{variant}"
        workdir = f"--workdir={tmp_path / 'run'}"
        return call(config, *SMALL, size, workdir, f"--mode={mode}", *options)

    return command


def pictures(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="module")
def finished(call, pytestconfig, tmp_path_factory):
    """The workdir of a smoke run on a noisy clip."""
    folder = tmp_path_factory.mktemp("video") / "run"
    config = f"--config={pytestconfig.rootpath / CONFIG}:smoke"
    noise, threshold = "--config.data.clip.noise=0.05", "--config.fit.threshold=0.1"
    done = call(config, *SMALL, SIZE, noise, threshold, f"--workdir={folder}")
    assert done.code == 0, done.err
    (folder / "stdout").write_text(done.out)
    return folder


def test_a_run_leaves_frames_a_movie_and_scores(finished, pytestconfig):
    folder = finished / "fits" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    config = configured(pytestconfig.rootpath)
    config.data.size, config.data.clip.noise = (8, 12), 0.05
    clip = tasks.build(config).open("train")
    frames = {name: pictures(folder / name) for name in ("frame", "background", "mask")}
    assert {stack.shape for stack in frames.values()} == {(len(clip), 8, 12)}
    np.testing.assert_allclose(frames["frame"] / 255, to_array(clip)[..., 0], atol=0.51 / 255)
    # The mask is what differs, to the rounding of the pictures.
    difference = np.abs(frames["frame"].astype(int) - frames["background"]) / 255
    mask = frames["mask"] > 0
    assert mask[difference > 0.1 + 0.01].all()
    assert not mask[difference < 0.1 - 0.01].any()
    moving = np.stack([clip.foreground(index) for index in range(len(clip))])
    hits = (mask & moving).sum()
    assert metrics["precision"] == pytest.approx(hits / max(mask.sum(), 1))
    assert metrics["recall"] == pytest.approx(hits / moving.sum())
    background = np.stack([clip.truth(index) for index in range(len(clip))])[..., 0]
    errors = np.square(frames["background"] / 255 - background).mean((1, 2))
    assert metrics["psnr"] == pytest.approx(-10 * np.log10(errors).mean(), abs=0.3)
    assert metrics["rank"] <= 4
    assert metrics["threshold"] == 0.1
    assert metrics["moving_share"] == pytest.approx(mask.mean())
    residual = (frames["frame"] - 1.0 * frames["background"]) / 255
    middle = 1.4826 * np.median(np.abs(residual))
    assert metrics["noise"] == pytest.approx(middle, abs=0.6 * 1.4826 / 255)
    variance = np.square(residual).mean() / np.var(frames["frame"] / 255)
    assert metrics["explained"] == pytest.approx(1 - variance, abs=0.02)
    shown = [score["key"] for score in metrics["scores"]]
    assert shown[:4] == ["rank", "explained", "noise", "threshold"]
    assert {"moving_share", "precision", "recall", "f_measure", "psnr"} <= set(shown)
    # On the terminal too.
    lines = (finished / "stdout").read_text().splitlines()
    (head,) = [line for line in lines if line.startswith("fit ")]
    assert {"Rank", "Explained", "Noise", "Threshold", "F-measure"} <= set(head.split())
    # The page plays the movie.
    assert "data:image/gif;base64," in (finished / "report.html").read_text()
    # The GIF merges equal neighbours, so at most one picture for each frame.
    assert 1 < len(imageio.v3.imread(folder / "side_by_side.gif")) <= len(clip)


def test_codes_of_frames_are_rendered_larger(finished, run, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert run("--config.render.scale=2", mode="render").code == 0
    rendered = pictures(tmp_path / "run" / "fits" / "test" / "render" / "16x24")
    assert rendered.shape == (12, 16, 24)


@pytest.mark.slow
def test_time_is_a_coordinate_and_rendered_between_frames(run, tmp_path):
    small = ("--config.data.clip.num_frames=12", "--config.train.points=200")
    tiny = ("--config.dictionary.num_experts=4", "--config.dictionary.width=16")
    options = (*small, *tiny, "--config.fit.movies=('mp4','gif')")
    done = run(*options, variant="time")
    assert done.code == 0, done.err
    folder = tmp_path / "run" / "fits" / "test"
    background = pictures(folder / "background")
    assert background.shape == (12, 8, 12)
    done = run(*options, "--config.render.shape=(23,8,12)", variant="time", mode="render")
    assert done.code == 0, done.err
    (name,) = [path for path in (folder / "render" / "23x8x12").iterdir() if path.is_dir()]
    between = pictures(name)
    assert between.shape == (23, 8, 12)
    # Every other frame is one of the fit's own.
    assert np.abs(between[::2].astype(int) - background).max() <= 1
    for suffix in ("mp4", "gif"):
        movie = imageio.v3.imread(name.with_name(f"{name.name}.{suffix}"))
        assert movie.shape[1:3] == (8, 12)
    # Another shape leaves the first as it was.
    assert run(*options, "--config.render.shape=(3,4,4)", variant="time", mode="render").code == 0
    assert pictures(folder / "render" / "3x4x4" / name.name).shape == (3, 4, 4)
    assert pictures(name).shape == (23, 8, 12)


def clip_frames(count=6, size=(10, 14)):
    generator = np.random.default_rng(3)
    still = generator.integers(60, 200, (*size, 3))
    frames = np.stack([still] * count)
    for number, frame in enumerate(frames):
        frame[2:5, 2 * number : 2 * number + 3] = 250
    return frames.astype(np.uint8)


@pytest.mark.slow
def test_a_folder_of_frames_and_a_file_of_ones_own(run, tmp_path):
    frames = clip_frames()
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    imageio.v3.imwrite(tmp_path / "own.mp4", frames, fps=10, macro_block_size=2)
    for source, size in ((folder, (10, 14)), (tmp_path / "own.mp4", (10, 14))):
        options = ("--config.data.name=video", f"--config.data.root={source}")
        done = run(*options, "--config.data.gray=false", size="--config.data.size=(10,14)")
        assert done.code == 0, done.err
        fit = tmp_path / "run" / "fits" / "test"
        assert pictures(fit / "background").shape == (6, *size, 3)
        metrics = json.loads((fit / "metrics.json").read_text())
        # Nothing is known of the truth.
        assert "psnr" not in metrics and "f_measure" not in metrics  # noqa: PT018
        assert metrics["rank"] >= 1
        (tmp_path / "run").rename(tmp_path / f"done_{source.name}")


def one_frame(folder):
    Image.fromarray(clip_frames()[0]).save(folder / "a.png")


def two_sizes(folder):
    Image.fromarray(clip_frames()[0]).save(folder / "a.png")
    Image.fromarray(clip_frames()[0][:, :9]).save(folder / "b.png")


@pytest.mark.parametrize(
    ("make", "expected"), [(one_frame, "at least 2 frames"), (two_sizes, "b.png")]
)
def test_folders_that_are_no_video(run, tmp_path, make, expected):
    folder = tmp_path / "frames"
    folder.mkdir()
    make(folder)
    options = ("--config.data.name=video", f"--config.data.root={folder}")
    assert expected in run(*options, size="--config.data.size=(10,14)").complaint()


def test_a_file_that_is_no_video(run, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    options = ("--config.data.name=video", f"--config.data.root={tmp_path / 'bad.mp4'}")
    assert "bad.mp4: cannot be read as a video" in run(*options).complaint()
    options = ("--config.data.name=video", f"--config.data.root={tmp_path / 'none.mp4'}")
    assert "does not exist" in run(*options).complaint()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("data.time=seconds", "data.time: 'seconds'; allowed: codes, coordinate"),
        ("data.time=coordinate", "fit.refine.kind: 'atoms'"),
        ("fit.movies=('avi',)", "fit.movies: 'avi'; allowed: mp4, gif"),
        ("fit.threshold=-1", "fit.threshold: -1"),
        ("fit.refine.rank=-1", "fit.refine.rank: -1"),
        ("fit.refine.share=2", "fit.refine.share: 2"),
        ("fit.batch_size=4", "fit.batch_size: 4; allowed: 0"),
        ("data.clip.num_frames=3", "data.clip.num_frames=3"),
    ],
)
def test_values_that_are_refused(run, tmp_path, option, expected):
    assert expected in run(f"--config.{option}").complaint()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("", "num_train", 5),
        ("", "num_test", 5),
        ("augment", "mirror", True),
        ("augment", "shifts", 3),
        ("patch", "size", 4),
    ],
)
def test_configs_of_ones_own_that_choose_frames_are_refused(pytestconfig, group, key, value):
    """The shipped config has no such keys."""
    own = configured(pytestconfig.rootpath)
    own.data.update({group: {key: value}} if group else {key: value})
    name = ".".join(filter(None, ("data", group, key)))
    with pytest.raises(ValueError, match=f"{name}: {value}, but a video is learned from"):
        tasks.build(own)


@pytest.mark.parametrize("experts", [256])
def test_the_costs_of_many_experts_are_finite(tmp_path, pytestconfig, experts):
    config = configured(pytestconfig.rootpath)
    assert (config.loss.l1_base, config.loss.balance) == (0.5, 0.0)
    config.data.size = (8, 12)
    config.dictionary.update({"num_experts": experts, "width": 8})
    config.train.update({"steps": 2, "log_every": 1})
    trained = loop.train(tasks.build(config), config, Workdir(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert trained.step == 2


def disc_residual(contrast, noise, channels, blur=0.0):
    """(residual [T, H, W, C] of a moving disc, its mask): blurred, with white noise."""
    rows, columns = np.mgrid[:48, :64]
    centres = 12 + 4 * np.arange(10)
    moving = np.stack([(rows - 24) ** 2 + (columns - at) ** 2 < 81 for at in centres])
    sizes = contrast * np.ones(channels) * (-1) ** np.arange(channels)
    residual = moving[..., None] * sizes
    if blur:
        residual = ndimage.gaussian_filter(residual, (0, blur, blur, 0))
    generator = np.random.default_rng(0)
    return residual + noise * generator.standard_normal(residual.shape), moving


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("contrast", "noise", "blur"),
    [(0.2, 0.0, 0.0), (0.2, 0.004, 1.0), (0.5, 0.004, 1.0), (0.2, 0.05, 0.0), (0.6, 0.1, 0.0)],
)
def test_a_mask_by_the_noise(contrast, noise, blur, channels):
    residual, moving = disc_residual(contrast, noise, channels, blur)
    found = video.moving_mask(residual)
    score = video.mask_score(found.mask, moving)
    assert min(score["precision"], score["recall"]) > 0.95
    # What moves is 8% of the pixels and lifts the median.
    assert found.noise == pytest.approx(noise, rel=0.12, abs=1e-3)
    # Where noise alone decides, that many pixels exceed the threshold.
    if noise >= 0.05:
        share = (np.abs(residual).max(-1) > found.threshold)[~moving].mean()
        assert 0.11 < share < 0.18
    else:
        assert found.threshold == 0.05
    if not noise:
        assert found.beside == 0


def test_traces_beside_what_moves_raise_the_threshold():
    residual, moving = disc_residual(0.5, 0.003, 3)
    generator = np.random.default_rng(1)
    near = ndimage.binary_dilation(moving, np.ones((1, 9, 9), bool)) & ~moving
    residual[near] += 0.025 * generator.standard_normal((near.sum(), 3))
    found = video.moving_mask(residual)
    # Nine tenths of the largest of three such values are below 2.1 deviations.
    assert found.beside == pytest.approx(2.1 * 0.025, rel=0.15)
    assert found.threshold == pytest.approx(1.75 * found.beside)
    score = video.mask_score(found.mask, moving)
    assert min(score["precision"], score["recall"]) > 0.95


def test_a_mask_by_a_threshold_is_that_alone():
    residual, _ = disc_residual(0.2, 0.05, 3)
    found = video.moving_mask(residual, 0.1)
    np.testing.assert_array_equal(found.mask, (np.abs(residual) > 0.1).any(-1))
    assert found.threshold == 0.1
    nothing = video.moving_mask(np.zeros((3, 4, 5, 1)))
    assert not nothing.mask.any()
    assert (nothing.noise, nothing.beside) == (0.0, 0.0)


def test_what_was_chosen_for_the_mask_is_said():
    frames = data.ArrayCollection(np.full((3, 8, 9, 1), 0.5, np.float32), "abc", "three")
    with pytest.warns(Notice, match=r"fit\.threshold=0: residuals above 0\.050 .*noise 0\.0000"):
        extras = video.separated(frames, np.full((3, 8, 9, 1), 0.5), None, {}, 0.0)
    assert extras.metrics["threshold"] == 0.05
    assert extras.metrics["rank"] == 1
    assert extras.frame_rate == 0


def test_what_moves_is_cut_out_of_the_frames():
    frames = np.random.default_rng(0).random((3, 8, 9, 3)).astype(np.float32)
    collection = data.ArrayCollection(frames, "abc", "three")
    back = np.full_like(frames, 0.5)
    extras = video.separated(collection, back, None, {}, 0.3, frame_rate=25.0)
    moving = (np.abs(frames - 0.5) > 0.3).any(-1, keepdims=True)
    assert 0.1 < moving.mean() < 0.99
    np.testing.assert_array_equal(extras.frames["cut_out"], np.where(moving, frames, 0))
    assert extras.frame_rate == 25.0


def test_every_number_is_explained():
    assert all(score.about.endswith(".") for score in video.SCORES)


def test_the_rank_and_the_score_of_masks():
    generator = np.random.default_rng(0)
    low = generator.standard_normal((9, 2)) @ generator.standard_normal((2, 30))
    assert video.numerical_rank(low) == 2
    assert video.numerical_rank(low + 0.1 * generator.standard_normal(low.shape)) == 9
    mask = np.array([[[True, True, False, False]]])
    truth = np.array([[[True, False, True, True]]])
    scores = video.mask_score(mask, truth)
    assert scores == {"precision": 1 / 2, "recall": 1 / 3, "f_measure": 2 / 5}


def test_the_sheet_shows_frames_spread_over_the_video():
    names = ("background", "foreground", "mask", "cut_out")
    stacks = {name: np.zeros((60, 4, 6, 1)) for name in names}
    stacks["frame"] = np.arange(60.0).reshape(60, 1, 1, 1) * np.ones((1, 4, 6, 1))
    panels, columns = video._sheet(stacks, None, [str(number) for number in range(60)], {})
    assert columns == ["0", "8", "17", "25", "34", "42", "51", "59"]
    np.testing.assert_array_equal(panels[0].images[:, 0, 0, 0], np.array(columns, float))
    rows = ["frame", "background", "foreground", "mask", "cut out"]
    assert [panel.name for panel in panels] == rows
    panels, _ = video._sheet(stacks, stacks["background"] + 0.1, columns * 8, {})
    assert [panel.name for panel in panels][2] == "true background"
    assert panels[1].captions[0] == "20.0 dB"


def test_a_fit_is_beside_the_median_of_the_frames(finished):
    metrics = json.loads((finished / "fits" / "test" / "metrics.json").read_text())
    own, median = metrics["baselines"]["rows"]
    assert (own["name"], median["name"]) == ("this fit", "median")
    assert own["scores"]["f_measure"] == metrics["f_measure"]
    assert len(own["scores"]["psnr"]) == len(median["scores"]["psnr"]) == metrics["signals"]
    frames = video.open_frames(Workdir(finished, read_only=True).load_fit_config("test"), "test")
    every = np.stack([frames[index] for index in range(len(frames))])
    residual = every - np.median(every, 0)
    moving = np.stack([frames.foreground(index) for index in range(len(frames))])
    expected = video.mask_score(video.moving_mask(residual, 0.1).mask, moving)
    assert median["scores"]["f_measure"] == pytest.approx(expected["f_measure"])
    assert metrics["measured"].startswith(f"{len(frames)} frames of ")
