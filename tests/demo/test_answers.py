"""What the demonstration answers: of the faces that come with the package, and tiny others."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

import nid_jax as nid
from nid_jax.coding.grid_operator import on_grid
from nid_jax.demo import codes, faces, live, pictures, shapes, signals, tomography, zoom
from nid_jax.fields.coordinates import grid

COUNT = 3


@pytest.fixture(scope="module")
def known():
    return nid.load("faces")


@pytest.fixture(scope="module")
def unseen(known):
    return signals.unseen(known, COUNT)


def test_unseen_faces_are_not_among_those_learned_from(known, unseen):
    learned = signals.learned_from(known)
    assert unseen.shape == (COUNT, 25, 25, 1)
    assert learned.shape == (80, 25, 25, 1)
    distance = np.abs(learned[None] - unseen[:, None]).max((2, 3, 4))
    assert distance.min() > 0.1


@pytest.mark.slow
def test_a_face_is_completed(known, unseen):
    tab = faces.Faces(known, unseen)
    seen, found, unsure, peer, words = tab.of_canvas(1, 50, None, None)
    assert seen.shape == peer.shape == unsure.shape == (300, 300, 3)
    assert found.shape == (100 * 3, 100 * 3, 3)
    assert words.startswith("face 1, ")
    assert 40 < float(words.split("%")[0].removeprefix("face 1, ")) < 60
    decibels = float(words.split("dictionary ")[1].split(" dB")[0])
    assert decibels > 20
    # What is not seen is blue, and nothing else is.
    blue = (seen[::12, ::12] == (38, 70, 140)).all(-1)
    assert 0.4 < blue.mean() < 0.6


def test_what_is_brushed_over_is_missing():
    ground = np.full((100, 100, 4), 200, np.uint8)
    painted = ground.copy()
    painted[40:60, 20:61, :3] = 38, 70, 140
    covered = faces.brushed({"background": ground, "composite": painted}, (25, 25))
    wanted = np.zeros((25, 25), bool)
    wanted[10:15, 5:15] = True
    np.testing.assert_array_equal(covered, wanted)
    assert not faces.brushed(None, (25, 25)).any()
    assert not faces.brushed({"background": ground, "composite": ground}, (25, 25)).any()


def test_nothing_seen_is_one_line(known, unseen):
    tab = faces.Faces(known, unseen)
    ground = np.zeros((50, 50, 4), np.uint8)
    canvas = {"background": ground, "composite": ground + 200}
    *drawn, words = live.timed(tab.of_canvas, 4)(1, 50, canvas, None)
    assert drawn == [None] * 4
    assert words == "error: nothing of the face is seen: brush less"


def test_a_file_that_is_no_picture_is_one_line(known, unseen, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    tab = faces.Faces(known, unseen)
    *drawn, words = live.timed(tab.of_canvas, 4)(1, 50, None, str(path))
    assert drawn == [None] * 4
    assert words.startswith("error: ")
    assert "broken.png" in words
    assert "\n" not in words


def test_an_array_of_ones_own_is_taken(tmp_path):
    values = np.random.default_rng(0).random((25, 25), np.float32)
    np.save(tmp_path / "own.npy", values)
    found = signals.own(str(tmp_path / "own.npy"), (25, 25))
    np.testing.assert_allclose(found[..., 0], values)
    with pytest.raises(ValueError, match=r"own\.npy.*\(24, 24\)"):
        signals.own(str(tmp_path / "own.npy"), (24, 24))


def test_a_picture_of_ones_own_is_cut_to_a_square_in_gray(tmp_path):
    half = np.zeros((50, 90, 3), np.uint8)
    half[:, 45:] = 255, 255, 0
    Image.fromarray(half).save(tmp_path / "own.png")
    found = signals.own(str(tmp_path / "own.png"), (25, 25))
    assert found.shape == (25, 25, 1)
    np.testing.assert_allclose(found[:, :11], 0, atol=0.01)
    np.testing.assert_allclose(found[:, 14:], 0.886, atol=0.01)


@pytest.mark.slow
def test_a_code_at_the_mean_and_away_from_it(known):
    tab = codes.Codes(known, signals.learned_from(known)[:8])
    drawn, *near, words = tab.answer(*[0.0] * codes.NUMBERS)
    moved, *_ = tab.answer(2.0, *[0.0] * (codes.NUMBERS - 1))
    assert len(near) == codes.NEAREST
    assert np.abs(drawn.astype(int) - moved).max() > 20
    assert words.startswith("the mean code; ")
    distances = [float(part.split(" at ")[1]) for part in words.split(": ")[1].split(", ")]
    assert distances == sorted(distances)


def test_a_window_is_of_the_pixels_and_of_the_signal(known, unseen):
    tab = zoom.Zoom(known, unseen)
    pixels, drawn, words = tab.answer(1, 3.0, 0.0, 0.9)
    assert pixels.shape == drawn.shape == (320, 320, 3)
    assert words.startswith("face 1, 8 times as near around row 0.00, column 0.88")
    # An eighth of each axis's 24 steps: at most five pixels a side.
    assert len(np.unique(pixels)) <= 25
    assert len(np.unique(drawn)) > 25


@pytest.fixture(scope="module")
def waves():
    """Eight smooth slices of 12x12, and a dictionary of them."""
    draw = np.random.default_rng(0)
    row, column = np.moveaxis(np.asarray(grid((12, 12))).reshape(12, 12, 2), -1, 0)
    shifts = draw.uniform(0.5, 2, (8, 2, 1, 1))
    made = 0.5 + 0.4 * np.cos(shifts[:, 0] * row) * np.sin(shifts[:, 1] * column)
    made = (made * (row**2 + column**2 < 0.9)).astype(np.float32)[..., None]
    return nid.learn(made, num_experts=8), made


@pytest.mark.slow
def test_a_slice_from_few_views(waves):
    tab = tomography.Tomography(*waves)
    *drawn, words = tab.answer(1, 6, 0.0)
    assert len(drawn) == 5
    assert drawn[0].shape == (312, 312, 3)
    assert words.startswith("slice 1; 6 views of 12 detectors, noise 0%; ")
    found, sart = (float(part.split()[1]) for part in words.split("; ")[2].split(", "))
    assert found > sart
    noisy = tab.answer(1, 6, 10.0)
    assert np.abs(noisy[1].astype(int) - drawn[1]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 5])
def test_what_rays_tell_of_a_code_is_all_that_they_do(waves, views):
    dictionary, slices = waves
    rays = tomography._Rays(dictionary, views)
    pixels = slices[2].reshape(-1)
    noise = 0.1 * np.random.default_rng(views).standard_normal(12 * views)
    sinogram = rays.through @ pixels + noise
    known = nid.operators.parallel_beam((12, 12), views, convention="skimage")
    known = on_grid(known, (12, 12))
    np.testing.assert_allclose(
        rays.through @ pixels, np.asarray(known.measure(pixels[:, None]))[:, 0], atol=1e-4
    )
    solver = nid.Gaussian(noise=0.1)
    whole = dictionary.fit(np.float32(sinogram)[None], known, solver=solver)
    told = dictionary.fit(rays.told(sinogram)[None], rays.operator, solver=solver)
    spread = np.abs(np.asarray(whole.codes)).max()
    np.testing.assert_allclose(told.codes, whole.codes, atol=1e-3 * spread)
    np.testing.assert_allclose(told.bias, whole.bias, atol=1e-3 * spread)
    np.testing.assert_allclose(told.deviation(), whole.deviation(), rtol=1e-2)


@pytest.fixture(scope="module")
def balls():
    """Six balls of 10x10x10 distances, and a dictionary of them."""
    points = np.asarray(grid((10, 10, 10))).reshape(10, 10, 10, 3)
    radii = np.linspace(0.4, 0.7, 6)
    grids = np.stack([np.linalg.norm(points, axis=-1) - radius for radius in radii])[..., None]
    grids = grids.astype(np.float32)
    return nid.learn(grids, num_experts=6), grids


@pytest.mark.slow
def test_a_ball_has_a_surface(balls):
    tab = shapes.Shapes(*balls)
    path, words = tab.answer(1, 6, 300, 0.5)
    mesh = trimesh.load(path, force="mesh")
    assert words.startswith("50% of the way from shape 1 to 6; 300 of 1000 samples")
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.55, atol=0.05)


@pytest.mark.slow
def test_all_shapes_of_one_number_of_samples_are_fitted_once(balls, monkeypatch):
    fitted, fit = [], nid.NeuralDictionary.fit

    def counted(self, measurements, *given, **options):
        fitted.append(len(measurements))
        return fit(self, measurements, *given, **options)

    monkeypatch.setattr(nid.NeuralDictionary, "fit", counted)
    tab = shapes.Shapes(*balls)
    for number, other, between in ((1, 6, 0.5), (1, 6, 0.7), (3, 3, 0.0), (2, 5, 1.0)):
        tab.answer(number, other, 300, between)
    assert fitted == [6]
    # Which are fitted beside one another makes no difference.
    alone = shapes.Shapes(balls[0], balls[1][[1, 4]])
    for found, kept in zip(alone.fits(300), [tab.fits(300)[1], tab.fits(300)[4]], strict=True):
        np.testing.assert_allclose(found.codes, kept.codes, atol=1e-5)
        np.testing.assert_allclose(found.bias, kept.bias, atol=1e-5)
    fitted.clear()
    tab.fit_all()
    # Of these balls 1000 samples are all there are; 300 are known.
    assert fitted == [6, 6]
    tab.answer(1, 2, 10000, 0.0)
    assert fitted == [6, 6]


@pytest.fixture
def solid(monkeypatch):
    """Shapes whose dictionary fits nothing, and the numbers of samples that were asked of it."""
    asked = []

    def fit(sampled, operator, solver):
        asked.append(sampled.shape[1])
        time.sleep(0.05)
        return sampled

    grids = np.zeros((2, 7, 7, 7, 1), np.float32)
    return shapes.Shapes(SimpleNamespace(fit=fit), grids), asked


def test_two_threads_that_ask_for_one_fit_get_the_same(solid):
    tab, asked = solid
    with ThreadPoolExecutor(4) as pool:
        everything = [pool.submit(tab.fit_all) for _ in range(2)]
        found = list(pool.map(tab.fits, [100, 300, 300, 343, 100]))
        for one in everything:
            one.result()
    assert sorted(asked) == [100, 300, 343]
    assert found[0] is found[4]
    assert found[1] is found[2]


def test_a_fit_that_is_there_waits_for_no_other(solid):
    tab, _ = solid
    found = tab.fits(100)
    with tab._alone[300]:
        assert tab.fits(100) is found


def test_every_answer_has_a_file_of_its_own_and_few_are_kept(solid):
    tab, _ = solid
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: tab._path(), range(3 * shapes.MESHES)))
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tab.folder.name) for path in paths)
    # Those that four threads were just at may be there too.
    there = [path for path in paths if path.parent.exists()]
    assert shapes.MESHES <= len(there) <= shapes.MESHES + 3
    assert set(paths[-shapes.MESHES :]) <= set(there)


def test_pixels_stay_squares():
    drawn = pictures.gray(np.array([[0.0, 1.0]]), np.array([[True, False]]))
    assert drawn.shape == (160, 320, 3)
    assert (drawn[:, :160] == (38, 70, 140)).all()
    assert (drawn[:, 160:] == 255).all()
