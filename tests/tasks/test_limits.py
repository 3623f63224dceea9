"""Limits of configs are at most: what nobody typed gives way to what there is, in one line."""

import importlib
import itertools

import numpy as np
import pytest
from PIL import Image

from nid_jax import configs, data, tasks
from nid_jax.data.loading import check_batch_size
from nid_jax.data.prepared import write_prepared
from nid_jax.fields.coordinates import grid
from nid_jax.fitting import checks
from nid_jax.tasks import limits
from nid_jax.training.checks import check as check_training

# Every shipped way, and what stands in for its own signals.
VARIANTS = {
    "image": ("smoke", "cpu", "photos", "cpu-sparse", "photos-joint", "photos-independent"),
    "inpainting": ("cpu", "known", "pixels", "paper", "smoke"),
    "mri": ("cpu", "smoke"),
    "ct": ("cpu", "views", "large", "huge", "smoke"),
    "video": ("cpu", "time", "smoke"),
}
WAYS = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
COUNTS, SIZES, CHANNELS = (5, 50, 5000), ((20, 30), (64, 64), (200, 133)), (1, 3)
KINDS = list(itertools.product(COUNTS, SIZES, CHANNELS))
# Each count and each size in gray and in colour.
FEW = [k for k in KINDS if (COUNTS.index(k[0]) + SIZES.index(k[1])) % 3 == CHANNELS.index(k[2])]
# Hardly any work; none of it is a limit that signals set.
SMALL = (
    "dictionary.num_experts=12",
    "dictionary.num_layers=2",
    "dictionary.width=8",
    "dictionary.embedding.size=8",
    "train.steps=2",
    "train.warmup_epochs=0",
    "fit.num_pictures=1",
    "fit.gradient.steps=2",
    "fit.robust.steps=2",
    "fit.refine.steps=2",
)


def load(name, variant):
    return importlib.import_module(f"nid_jax.configs.{name}").get_config(variant)


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """signals(count, size, channels) -> an .npy of smooth pictures, uint8, made once."""
    folder, made = tmp_path_factory.mktemp("signals"), {}

    def make(count, size, channels):
        key = (count, size, channels)
        if key not in made:
            path = folder / f"{count}_{size[0]}x{size[1]}_{channels}.npy"
            values = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *size, channels))
            rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
            # Many signals are mostly black: only their number matters.
            for index in range(min(count, 64)):
                wave = np.sin((2 + index % 7) * rows + index) * np.cos((3 + index % 5) * columns)
                values[index] = (128 + 100 * wave)[..., None] * np.linspace(1, 0.8, channels)
            values.flush()
            made[key] = path
        return made[key]

    return make


def made_to_fit(config, typed=()):
    splits = {"train", config.fit.split}
    return limits.settled(config, limits.available(config, splits), typed)


@pytest.mark.parametrize("kinds", [FEW, pytest.param(KINDS, marks=pytest.mark.slow)], ids=len)
@pytest.mark.parametrize(("name", "variant"), WAYS)
def test_no_signals_are_refused(name, variant, kinds, signals):
    """Every config on 5 to 5000 signals of three sizes, gray and colour: all checks pass."""
    # Points of a whole video, and of projections, take their time to write down.
    slow = variant in ("time", "views")
    for kind in (kind for kind in kinds if not slow or kind[1] == (20, 30) and kind[0] < 5000):
        config = load(name, variant)
        config.data.update({"name": "array", "root": str(signals(*kind))})
        config, line = made_to_fit(config)
        assert line.count("\n") == 0
        task = tasks.build(config)
        train, held_out = task.open("train"), task.open("test")
        check_batch_size(config.train.batch_size, len(train))
        check_training(config)
        checks.check(config)
        checks.check_measured(config, task.measure(held_out))
        seen = task.learned_from(train)
        assert config.prior.num_signals <= len(train)
        if config.fit.solver == "gaussian" and config.fit.gaussian.neighbours:
            assert 2 <= config.fit.gaussian.neighbours <= config.prior.num_signals
        grid_shape = seen.grid_shape
        assert grid_shape[-2:] == kind[1]
        # What gave way once has nothing more to give.
        again, more = made_to_fit(config)
        assert more == ""
        assert again == config


def run_small(call, tmp_path, name, variant, path, *more):
    options = [option for option in SMALL if "refine" not in option or name != "sdf"]
    if name != "video":
        # Their codes take longest; a whole video may be one signal.
        options.append("prior.num_signals=4")
    return call(
        f"--config={name}:{variant}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={path}",
        "--config.fit.num_signals=1",
        *(f"--config.{option}" for option in (*options, *more)),
    )


def check_run(result):
    assert result.code == 0, result.err
    assert sum(line.startswith("note        ") for line in result.err.splitlines()) <= 2
    assert "report: " in result.out


@pytest.mark.parametrize(("size", "kept"), [((20, 30), True), ((64, 64), False)])
def test_pools_of_waves_give_way_to_components_of_large_signals(signals, size, kept):
    config = load("image", "cpu-sparse")
    config.data.update({"name": "array", "root": str(signals(5, size, 3))})
    found, line = made_to_fit(config)
    assert found.dictionary.heads == ("waves" if kept else "components")
    assert ("dictionary.heads waves -> components" in line) is not kept
    found, _ = made_to_fit(config, typed={"dictionary.heads"})
    assert found.dictionary.heads == "waves"


# Each way on three kinds, and between them every kind of signals.
CHOSEN = [
    (name, variant, *KINDS[(7 * place + 5 * turn) % len(KINDS)])
    for place, (name, variant) in enumerate(WAYS)
    for turn in range(3)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant", "count", "size", "channels"), CHOSEN)
def test_runs_on_signals_of_ones_own(call, signals, tmp_path, name, variant, count, size, channels):
    path = signals(count, size, channels)
    more = ["data.name=array"]
    if name == "video":
        more.append("fit.movies=('gif',)")
    if count == 5000 and name != "video":
        # Only so that a test is no benchmark: below what there is.
        more += ["data.num_train=50", "data.num_test=2"]
    if name == "video" and count == 5000:
        pytest.skip("minutes of pictures; what may be refused is in the quick test")
    check_run(run_small(call, tmp_path, name, variant, path, *more))


@pytest.mark.slow
def test_a_few_tomograms_take_the_config_as_it_is(call, signals, tmp_path):
    """One line says what gave way, and nothing is refused."""
    path = signals(50, (20, 30), 1)
    arguments = [f"--config.{option}" for option in (*SMALL, "fit.num_signals=1")]
    result = call(
        "--config=ct",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=array",
        f"--config.data.root={path}",
        *arguments,
    )
    check_run(result)
    (line,) = [line for line in result.err.splitlines() if "signals to learn from" in line]
    assert line.startswith("note        40 signals to learn from, 1 signal to fit: ")
    for change in (
        "data.num_train 8000 -> 40",
        "data.num_test 20 -> 10",
        "data.size (64, 64) -> (20, 30)",
        "train.batch_size 400 -> 40",
        "prior.num_signals 8000 -> 40",
        "fit.gaussian.neighbours 500 -> 40",
    ):
        assert change in line
    # The same command goes on with the same run.
    again = call(
        "--config=ct",
        f"--workdir={tmp_path / 'run'}",
        "--mode=fit",
        "--config.data.name=array",
        f"--config.data.root={path}",
        *arguments,
    )
    check_run(again)


@pytest.mark.parametrize(
    "key",
    [
        "data.num_train=8000",
        "data.num_test=20",
        "train.batch_size=400",
        "prior.num_signals=8000",
        "fit.gaussian.neighbours=500",
        "fit.num_signals=11",
        "fit.batch_size=11",
        "train.points=601",
        "fit.top_k=1025",
    ],
)
def test_what_was_typed_is_refused_before_training(call, signals, tmp_path, key):
    name, _, value = key.partition("=")
    result = call(
        "--config=ct",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=array",
        f"--config.data.root={signals(50, (20, 30), 1)}",
        f"--config.{key}",
    )
    assert f"{name}: {value}; allowed: at most " in result.complaint()
    assert not (tmp_path / "run").exists()


# Single rules


def surveyed(count, sizes=((32, 32),), channels=1):
    return data.Survey(count, sizes, channels)


def test_limits_follow_one_another():
    """Copies and patches count; what depends on another limit sees it as it became."""
    config = load("ct", "cpu")
    there = limits.Available(surveyed(43, ((64, 64),)), surveyed(5, ((64, 64),)))
    found, line = limits.settled(config, there)
    assert (found.data.num_train, found.data.num_test) == (43, 5)
    assert found.train.batch_size == found.prior.num_signals == 43
    assert found.fit.gaussian.neighbours == 43
    assert config.data.num_train == 8000, "the caller's own is left alone"
    assert line == (
        "note        43 signals to learn from, 5 signals to fit: data.num_train 8000 -> 43, "
        "data.num_test 20 -> 5, train.batch_size 400 -> 43, prior.num_signals 8000 -> 43, "
        "fit.gaussian.neighbours 500 -> 43"
    )
    config.data.augment.update({"mirror": True, "shifts": 4, "max_shift": 1})
    found, line = limits.settled(config, there)
    assert "43 signals to learn from, 430 copies of them, 5 signals to fit: " in line
    assert found.train.batch_size == 400
    assert found.prior.num_signals == 430
    assert found.fit.gaussian.neighbours == 430


def test_what_is_missing_is_not_moved_and_is_filled_by_the_prior():
    config = load("image", "cpu")
    holed = surveyed(80, ((25, 25),))._replace(holed=True)
    found, line = limits.settled(config, limits.Available(holed, holed._replace(count=20)))
    assert (found.data.augment.warps, found.fit.solver) == (0, "gaussian")
    assert "data.augment.warps 49 -> 0, fit.solver ridge -> gaussian" in line
    typed = {"data.augment.warps", "fit.solver"}
    found, _ = limits.settled(config, limits.Available(holed, holed), typed)
    assert (found.data.augment.warps, found.fit.solver) == (49, "ridge")


def test_patches_are_counted():
    config = load("image", "cpu")
    config.data.patch.size = 16
    config.data.augment.update({"mirror": False, "warps": 0})
    found, _ = limits.settled(config, limits.Available(surveyed(3), surveyed(1)))
    assert found.train.batch_size == found.prior.num_signals == 12
    config.data.patch.size = 40
    found, _ = limits.settled(config, limits.Available(surveyed(3), surveyed(1)))
    assert found.data.patch.size == 32
    assert found.train.batch_size == 3


def test_turns_of_what_is_not_square_are_mirror_images():
    config = load("image", "photos")
    there = limits.Available(surveyed(30, ((20, 30),)), surveyed(5, ((20, 30),)))
    found, line = limits.settled(config, there)
    assert (found.data.augment.turns, found.data.augment.mirror) == (False, True)
    assert "data.augment.turns True -> False" in line
    kept, _ = limits.settled(config, there, typed=["data.augment.turns"])
    assert kept.data.augment.turns


def test_too_few_codes_for_neighbours_take_one_prior():
    config = load("ct", "cpu")
    found, line = limits.settled(config, limits.Available(surveyed(1), surveyed(1)))
    assert found.fit.gaussian.neighbours == 0
    assert "fit.gaussian.neighbours 500 -> 0" in line
    config.prior.keep_codes = False
    found, _ = limits.settled(config, limits.Available(surveyed(9000), surveyed(20)))
    assert found.fit.gaussian.neighbours == 0
    found, _ = limits.settled(config, limits.Available(held_out=surveyed(20), codes=300))
    assert found.fit.gaussian.neighbours == 300


def test_supports_are_among_the_experts():
    config = load("image", "cpu-sparse")
    config.dictionary.num_experts = 16
    config.fit.omp.atoms_per_step = 20
    found, line = limits.settled(config, limits.Available(), {"dictionary.num_experts"})
    assert found.router.top_k == found.fit.top_k == found.fit.omp.atoms_per_step == 16
    assert line.startswith("note        limits: router.top_k 32 -> 16, ")
    with pytest.raises(ValueError, match=r"fit.top_k: 32; allowed: at most 16"):
        limits.settled(config, limits.Available(), {"fit.top_k"})


def test_no_experts_limit_nothing():
    config = load("image", "cpu")
    config.dictionary.num_experts = -4
    found, line = limits.settled(config, limits.Available(), {"dictionary.num_experts"})
    assert (found.fit.top_k, line) == (config.fit.top_k, "")


def test_what_is_scored_and_shown():
    config = load("image", "cpu")
    config.train.eval_every = 10
    config.fit.update({"num_signals": 9, "batch_size": 64})
    found, _ = limits.settled(config, limits.Available(held_out=surveyed(7)))
    assert (found.eval.num_signals, found.fit.num_signals, found.fit.batch_size) == (7, 7, 7)
    found, _ = limits.settled(config, limits.Available(fitted=1))
    assert found.fit.interpolate.end == 0


def test_pictures_of_another_size_or_of_several():
    config = load("image", "photos")
    one = limits.Available(surveyed(9, ((200, 133),), 3), surveyed(3, ((200, 133),), 3))
    found, line = limits.settled(config, one)
    assert found.data.size == (200, 133)
    assert not found.data.resize
    assert "data.size (32, 32) -> (200, 133)" in line
    several = ((48, 64), (64, 48))
    mixed = limits.Available(surveyed(9, several, 3), surveyed(3, several, 3))
    found, line = limits.settled(config, mixed)
    assert (found.data.size, found.data.resize, found.data.crop) == ((32, 32), True, "center")
    assert "data.resize False -> True" in line
    found, _ = limits.settled(load("image", "cpu"), mixed)
    assert (found.data.size, found.data.resize) == ((48, 64), True)
    # Typed, it stays, and reading the pictures says what is wrong with it.
    for there in (one, mixed):
        found, _ = limits.settled(config, there, {"data.size"})
        assert (found.data.size, found.data.resize) == ((32, 32), False)
    config.data.resize = True
    found, _ = limits.settled(config, one)
    assert found.data.size == (32, 32)


def test_pictures_of_several_sizes_are_mirrored_and_no_more():
    config = load("image", "cpu")
    config.data.update({"name": "folder", "size": ()})
    several = limits.Available(surveyed(9, ((20, 30), (40, 40))), surveyed(3, ((20, 30),)))
    found, _ = limits.settled(config, several)
    assert (found.data.size, found.data.resize) == ((), False)
    assert (found.data.augment.mirror, found.data.augment.warps) == (True, 0)
    assert found.prior.num_signals == 18
    config.data.augment.update({"mirror": False, "turns": True})
    found, _ = limits.settled(config, several)
    assert (found.data.augment.mirror, found.data.augment.turns) == (True, False)
    found, _ = limits.settled(config, several, {"data.augment.turns"})
    assert found.data.augment.turns
    assert found.prior.num_signals == 72
    # Copies that need a common grid, and are wanted, bring pictures to one.
    found, _ = limits.settled(config, several, {"data.augment.warps"})
    assert found.data.resize
    config.data.patch.size = 8
    found, _ = limits.settled(config, several)
    assert not any(found.data.augment[key] for key in ("mirror", "turns", "shifts", "warps"))


def test_warps_of_a_config_give_way_where_own_sizes_were_typed():
    several = limits.Available(surveyed(9, ((10, 8), (8, 9))), surveyed(3, ((10, 8),)))
    config = load("image", "cpu-sparse")
    config.data.update({"name": "folder", "size": ()})
    assert config.data.augment.warps
    found, line = limits.settled(config, several, {"data.name", "data.size"})
    assert (found.data.augment.warps, found.data.resize, found.data.size) == (0, False, ())
    assert "data.augment.warps 49 -> 0" in line
    found, _ = limits.settled(config, several, {"data.name", "data.size", "data.augment.warps"})
    assert found.data.augment.warps == 49


def test_gray_gives_way_to_channels_that_are_no_colours():
    config = load("video", "cpu")
    found, line = limits.settled(config, limits.Available(surveyed(60, channels=4)))
    assert not found.data.gray
    assert "data.gray True -> False" in line
    found, _ = limits.settled(config, limits.Available(surveyed(60, channels=3)))
    assert found.data.gray


@pytest.mark.slow
def test_photos_on_a_folder_of_340(call, tmp_path):
    """The photographs' config asks for 4000 crops of 32x32."""
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(340):
        size = (24, 36) if number % 10 else (36, 24)
        low = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize(size[::-1]).save(tmp_path / "pictures" / f"{number:03d}.png")
    result = run_small(call, tmp_path, "image", "photos", tmp_path / "pictures", "data.name=folder")
    check_run(result)
    assert "data.num_train 4000 -> 272" in result.err
    assert "data.resize False -> True" in result.err


def write_volumes(folder, count, side):
    """Prepared spheres of several radii."""
    folder.mkdir()
    points = grid((side,) * 3).astype(np.float64)
    draw = np.random.default_rng(0)
    directions = draw.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for number in range(count):
        radius = 0.4 + 0.3 * number / count
        near = (radius + 0.05 * draw.normal(size=(200, 1))) * directions
        write_prepared(
            folder / f"sphere_{number:03d}.npz",
            source=f"sphere {number}",
            settings={},
            sdf=(np.linalg.norm(points, axis=1) - radius).reshape((side,) * 3),
            truncation=0.0,
            points=near,
            distances=np.linalg.norm(near, axis=1) - radius,
            surface=radius * directions,
            normals=directions,
            vertices=radius * directions[:4],
            faces=np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]),
            normalise=np.eye(4),
            denormalise=np.eye(4),
        )
    return folder


@pytest.mark.parametrize(("variant", "count"), [("volumes", 5), ("volumes", 50), ("cpu", 5)])
def test_no_volumes_are_refused(variant, count, tmp_path):
    config = load("sdf", variant)
    root = write_volumes(tmp_path / "volumes", count, 12)
    config.data.update({"name": "volumes", "root": str(root)})
    config, _ = made_to_fit(config)
    task = tasks.build(config)
    check_batch_size(config.train.batch_size, len(task.open("train")))
    assert config.prior.num_signals <= len(task.open("train"))
    checks.check_measured(config, task.measure(task.open("test")))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["volumes", "cpu", "many", "smoke"])
def test_runs_on_volumes_of_ones_own(call, tmp_path, variant):
    root = write_volumes(tmp_path / "volumes", 6, 12)
    more = ["data.name=volumes", "data.size=(12,12,12)", "train.points=512", "prior.points=512"]
    more.append("train.optimizer.name=adam")  # splines need none, and steps are taken here
    check_run(run_small(call, tmp_path, "sdf", variant, root, *more))


def test_every_config_is_among_them():
    assert set(configs.names()) - {"official", "sdf", "fields"} == set(VARIANTS)


def test_volumes_of_an_array_have_their_own_size(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((6, 8, 9, 10)))
    config = configs.image.get_config("photos")
    config.data.update({"name": "array", "root": str(tmp_path / "x.npy"), "layout": "SDHW"})
    settled, line = limits.settled(config, limits.available(config, {"train", "test"}))
    assert settled.data.size == ()
    assert "data.size (32, 32) -> ()" in line
    task = tasks.build(settled)
    collection = task.open("test")
    truth = data.to_array(collection)
    assert truth.shape == (1, 8, 9, 10, 1)
    scores = task.metrics(truth + 0.1 * (truth < 0.5), truth, task.measure(collection))
    expected = -10 * np.log10(0.01 * (truth < 0.5).mean())
    np.testing.assert_allclose(scores["psnr"], expected, rtol=1e-4)
    assert set(scores) == {"psnr"}
