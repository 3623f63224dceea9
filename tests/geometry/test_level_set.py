"""Sparse extraction gives the surface that marching cubes finds on the whole lattice."""

import tracemalloc

import numpy as np
import pytest
import trimesh
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from nid_jax.errors import ArgumentError
from nid_jax.geometry import level_set, primitives


def lattice(size, low=-1.0, high=1.0):
    axis = np.linspace(low, high, size)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def dense(function, size):
    """scikit-image on all samples, float64 values: vertices in [-1, 1], faces."""
    values = function(lattice(size)).reshape([size] * 3)
    vertices, faces, _, _ = marching_cubes(values, 0.0)
    return vertices.astype(np.float64) * 2 / (size - 1) - 1, faces


def assert_same_surface(found, expected, size, tolerance=1.1e-4):
    """The same vertices within a share of a cell, and the same triangles between them."""
    (vertices, faces), (truth, triangles) = found, expected
    assert len(vertices) == len(truth)
    assert len(faces) == len(triangles)
    distance, number = cKDTree(truth).query(vertices)
    assert distance.max() * (size - 1) / 2 < tolerance
    assert len(np.unique(number)) == len(truth)

    def turned(faces):
        first = faces.argmin(1)[:, None]
        faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, 1)
        return faces[np.lexsort(faces.T)]

    np.testing.assert_array_equal(turned(number[faces]), turned(triangles))


def plates(points):
    """Two plates thinner than a tenth of the first level's boxes, a little apart."""
    upper = primitives.box(points - [0.0117, 0, 0.07131], [0.6113, 0.5219, 0.01717])
    lower = primitives.box(points + [0.0117, 0, 0.05173], [0.6319, 0.5531, 0.01723])
    return primitives.union(upper, lower)


SHAPES = {
    "sphere": lambda points: primitives.sphere(points, 0.7013),
    "torus": lambda points: primitives.torus(points, 0.6, 0.231),
    "plates": plates,
    "far corner": lambda points: primitives.sphere(points - 0.93, 0.05),
}


@pytest.mark.parametrize("size", [33, 66, 101])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_whole_lattice(name, size, monkeypatch):
    # Slabs of four cells or fewer, so that the surface crosses many seams.
    monkeypatch.setattr(level_set, "_SLAB_SAMPLES", 4 * size**2)
    vertices, faces, effort = level_set.extract(
        SHAPES[name], size, search=level_set.Search(coarse=8)
    )
    assert vertices.dtype == np.float64
    assert_same_surface((vertices, faces), dense(SHAPES[name], size), size)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0  # triangles turn anticlockwise seen from outside
    assert effort.lattice == size**3


def random_field(seed, waves=40, frequency=7.0):
    """A smooth field with details of a few cells, of slope at most 1."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(waves, 3)) * frequency
    phases, weights = rng.uniform(0, 2 * np.pi, waves), rng.normal(size=waves)
    weights /= (np.abs(weights) * np.linalg.norm(directions, axis=1)).sum()
    return lambda points: np.sin(points @ directions.T + phases) @ weights


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_whole_lattice_on_random_fields(seed, monkeypatch):
    # Its surfaces fill the cube, leave it on all sides, and meet in ambiguous cells.
    monkeypatch.setattr(level_set, "_SLAB_SAMPLES", 2**13)
    field = random_field(seed)
    vertices, faces, _ = level_set.extract(field, 40, search=level_set.Search(lipschitz=1.0))
    assert_same_surface((vertices, faces), dense(field, 40), 40)


balls = st.lists(
    st.tuples(*[st.floats(-0.6, 0.6)] * 3, st.floats(0.05, 0.35)), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=20)
@given(balls=balls, size=st.integers(24, 70), tau=st.sampled_from([None, 0.1, 0.2]))
def test_random_unions_of_balls(balls, size, tau):
    # Off round numbers: where a sample lies on the surface the dense mesh has vertices that fall
    # together, which sparse ones never do.
    moved = np.array(balls) + np.array([0.01373, -0.00719, 0.00531, 0.00311])

    def union(points):
        return primitives.union(*(primitives.sphere(points - ball[:3], ball[3]) for ball in moved))

    def cut(points):
        return np.clip(union(points), -tau, tau)

    function = union if tau is None else cut
    vertices, faces, _ = level_set.extract(function, size, search=level_set.Search(4, bound=tau))
    if (union(lattice(size)) > 0).all():  # balls between samples
        assert len(vertices) == 0
        return
    truth, triangles = dense(function, size)
    # Close to a sample the dense mesh's vertices are next to one another: which is which is open.
    apart = cKDTree(truth).query(truth, 2)[0][:, 1].min() * (size - 1) / 2
    assume(apart > 1e-3)
    assert_same_surface((vertices, faces), (truth, triangles), size)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    # Vertices lie within the error of linear interpolation of a surface curved by 1 / radius,
    # more where two balls meet.
    assert np.abs(union(vertices)).max() < 2 / (size - 1)


def test_a_surface_at_a_sample_has_no_doubled_vertices():
    vertices, faces, _ = level_set.extract(lambda p: primitives.box(p, [0.5, 0.5, 0.5]), 65)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert len(np.unique(vertices, axis=0)) == len(vertices)
    assert mesh.volume == pytest.approx(1, rel=1e-4)


def test_a_surface_that_is_met_is_followed_where_the_function_is_too_steep():
    # Ten times as fast as allowed: its boxes are dropped but for those next to the surface.
    def steep(points):
        return 20 * primitives.torus(points, 0.6, 0.231)

    vertices, faces, effort = level_set.extract(steep, 101)
    assert_same_surface((vertices, faces), dense(steep, 101), 101)
    gentle = level_set.extract(SHAPES["torus"], 101)[2]
    assert effort.evaluated < gentle.evaluated


def test_few_points_are_evaluated_and_all_are_counted():
    asked = []

    def sphere(points):
        assert len(points) <= 4000
        asked.append(len(points))
        return primitives.sphere(points, 0.7013)

    _, _, effort = level_set.extract(sphere, 161, search=level_set.Search(chunk=4000))
    assert effort.evaluated == sum(asked)
    assert effort.evaluated < 161**3 / 10


def test_known_values_at_the_first_level_are_not_asked_for_again():
    settings = {"search": level_set.Search(20, bound=0.3)}
    points = level_set.coarse_points(90, **settings)
    asked = []

    def function(points):
        asked.append(len(points))
        return primitives.torus(points, 0.6, 0.231)

    values = primitives.torus(points, 0.6, 0.231)
    known = level_set.extract(function, 90, coarse_values=values, **settings)
    alone = level_set.extract(SHAPES["torus"], 90, **settings)
    np.testing.assert_array_equal(known[0], alone[0])
    np.testing.assert_array_equal(known[1], alone[1])
    assert known[2] == alone[2]
    assert sum(asked) == alone[2].evaluated - len(points)


def on_grid(function):
    def values(axes):
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        return function(points.reshape(-1, 3)).reshape(points.shape[:-1])

    return values


@pytest.mark.parametrize("size", [(33, 40, 27), 64])
@pytest.mark.parametrize("name", SHAPES)
def test_a_lattice_taken_as_a_whole_gives_the_same_surface(name, size, monkeypatch):
    monkeypatch.setattr(level_set, "_SLAB_SAMPLES", 4 * 40**2)
    window = ((-1, 1.1), (-0.9, 1), (-1, 1))
    found = level_set.extract(SHAPES[name], size, window)
    whole = level_set.extract(None, size, window, on_grid=on_grid(SHAPES[name]))
    assert len(whole[1]) or name == "far corner"
    np.testing.assert_array_equal(whole[0], found[0])
    np.testing.assert_array_equal(whole[1], found[1])
    assert whole[2].evaluated == whole[2].lattice == found[2].lattice


def test_a_lattice_taken_as_a_whole_misses_no_surface_however_steep():
    def steep(points):
        return 2000 * primitives.sphere(points - 0.31, 0.05)

    searched = level_set.extract(steep, 65)
    whole = level_set.extract(None, 65, on_grid=on_grid(steep))
    assert len(searched[1]) < len(whole[1])
    assert_same_surface(whole[:2], dense(steep, 65), 65)


def test_lattices_that_may_be_taken_as_a_whole(monkeypatch):
    monkeypatch.setattr(level_set, "_WHOLE_SAMPLES", 40**3 - 1)
    assert level_set.may_be_whole(39)
    assert level_set.may_be_whole((40, 40, 39))
    assert not level_set.may_be_whole(40)
    with pytest.raises(ArgumentError, match="resolution: 1"):
        level_set.may_be_whole(1)


def test_points_of_a_search_are_foretold():
    for name, size in (("sphere", 64), ("sphere", 129), ("torus", 129)):
        found = level_set.extract(SHAPES[name], size)[2].evaluated
        assert found / 3 < level_set.searched_points(size) < 3 * found, (name, size)


def test_a_lattice_taken_as_a_whole_names_where_it_is_not_finite():
    def broken(points):
        return np.where((points == [0, 0.5, -1]).all(-1), np.nan, 1.0)

    with pytest.raises(ValueError, match=r"not finite at \[0.0, 0.5, -1.0\]"):
        level_set.extract(None, 5, on_grid=on_grid(broken))


def test_the_bound_makes_the_first_level_fine_enough():
    thin = 0.04

    def cut(points):
        return np.clip(primitives.sphere(points - 0.21, 0.1), -thin, thin)

    assert len(level_set.coarse_points(65, search=level_set.Search(4))) == 4**3
    assert len(level_set.coarse_points(65, search=level_set.Search(4, bound=0.2))) == 32**3
    vertices, faces, _ = level_set.extract(cut, 65, search=level_set.Search(4, bound=thin))
    assert_same_surface((vertices, faces), dense(cut, 65), 65)


def test_window_level_and_axes_of_their_own():
    window = ((0.0, 0.9), (-0.2, 0.9), (-0.9, 0.9))
    vertices, faces, _ = level_set.extract(
        lambda p: primitives.sphere(p - [0.4, 0.3, 0.1], 0.2), (40, 51, 62), window, level=0.1
    )
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    radii = np.linalg.norm(vertices - [0.4, 0.3, 0.1], axis=1)
    np.testing.assert_allclose(radii, 0.3, atol=6e-4)


@pytest.mark.parametrize("value", [-0.3, 0.3])
def test_no_surface_is_an_empty_mesh(value):
    vertices, faces, _ = level_set.extract(lambda p: np.full(len(p), value), 40)
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 1}, "resolution: 1; allowed: whole numbers of 2 or more"),
        ({"resolution": 12.5}, "resolution: 12.5"),
        ({"resolution": 10**12}, "resolution: 1000000000000; allowed: at most 1048576"),
        ({"window": ((0, 1), (1, 1), (0, 1))}, "low < high"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        level_set.extract(SHAPES["sphere"], **{"resolution": 20, **settings})


def test_a_surface_that_memory_does_not_hold_is_refused_as_soon_as_that_is_seen():
    asked = []

    def sphere(points):
        asked.append(len(points))
        return primitives.sphere(points, 0.7013)

    search = level_set.Search(memory=2**34)
    says = (
        r"^resolution: \(1000000, 1000000, 1000000\); allowed: what fits into the 16 GiB there "
        r"are; the surface takes [0-9.e+]+ GiB or more$"
    )
    with pytest.raises(ArgumentError, match=says):
        level_set.extract(sphere, 10**6, search=search)
    assert sum(asked) < 64**3
    # A first level too fine is not even made.
    asked.clear()
    with pytest.raises(ArgumentError, match="^resolution: .* the surface takes"):
        level_set.extract(sphere, 10**5, search=level_set.Search(bound=1e-4, memory=2**34))
    assert not asked
    # What is needed is no less than what is refused.
    for size in (70, 140):
        tracemalloc.start()
        level_set.extract(sphere, size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        level_set.extract(sphere, size, search=level_set.Search(memory=peak))
        with pytest.raises(ArgumentError, match="^resolution: "):
            level_set.extract(sphere, size, search=level_set.Search(memory=peak // 6))
    nothing = level_set.extract(lambda p: np.ones(len(p)), 10**6, search=search)
    assert len(nothing[0]) == 0


@pytest.mark.parametrize(
    ("field", "value"), [("bound", 0.0), ("coarse", 0), ("lipschitz", -1.0), ("chunk", 0)]
)
def test_searches_that_are_refused(field, value):
    with pytest.raises(ArgumentError, match=f"^{field}: {value}; allowed: above 0"):
        level_set.Search(**{field: value})


def test_a_function_that_is_not_finite_is_named_with_its_place():
    def broken(points):
        return np.where(points[:, 0] > 0.4, np.nan, primitives.sphere(points, 0.7))

    with pytest.raises(ValueError, match=r"function is not finite at \[0\.\d+, -0\.9"):
        level_set.extract(broken, 40)
