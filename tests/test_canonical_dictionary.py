"""Canonical dictionaries as people hold them: cut, stored in few bits, learned and loaded."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import nid_jax as nid
from nid_jax import tasks
from nid_jax.coding.prior import fit_prior
from nid_jax.configs import image, sdf
from nid_jax.data import ArrayCollection
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import build_model
from nid_jax.notices import gathered
from nid_jax.tasks.task import Measured

SHAPE = (9, 8)


def signals(count, seed):
    draw = np.random.default_rng(seed)
    angles, phases = draw.uniform(-2, 2, (count, 3, 2)), draw.uniform(0, 6, (count, 3, 1))
    values = np.sin(np.einsum("skd,pd->skp", angles, grid(SHAPE)) + phases).mean(1)
    return (0.5 + 0.4 * values).reshape(count, *SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """After some steps of descent, so that canonical form is not how it began."""
    workdir = tmp_path_factory.mktemp("learned")
    return nid.learn(signals(24, 0), steps=4, num_experts=16, workdir=workdir / "w"), workdir


@pytest.fixture(scope="module")
def unseen():
    return signals(5, 1)


def test_descent_ends_in_canonical_form(learned):
    dictionary, _ = learned
    atoms = np.asarray(dictionary.dictionary.basis(grid(SHAPE)), np.float64)[..., 0]
    np.testing.assert_allclose(atoms.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(atoms.T @ atoms / len(atoms), np.eye(16), atol=1e-3)
    variance = np.asarray(dictionary.prior.diagonal, np.float64)
    assert (np.diff(variance) <= 1e-6 * variance[0]).all()


@pytest.mark.slow
def test_the_first_atoms_are_least_squares_of_them_alone(learned, unseen):
    dictionary, _ = learned
    few = dictionary.first(6)
    assert (few.num_experts, len(few.prior.mean)) == (6, 6)
    found = few.fit(unseen, solver=nid.Ridge(lam=1e-9))
    atoms = np.asarray(dictionary.dictionary.basis(grid(SHAPE)), np.float64)[:, :6, 0]
    columns = np.concatenate([atoms, np.ones((len(atoms), 1))], 1)
    expected = np.linalg.lstsq(columns, unseen.reshape(5, -1).T, rcond=None)[0].T
    np.testing.assert_allclose(found.codes, expected[:, :6], atol=1e-4)
    np.testing.assert_allclose(found.bias, expected[:, 6:], atol=1e-4)
    whole = dictionary.fit(unseen, solver=nid.Ridge(lam=1e-9))
    np.testing.assert_allclose(whole.codes[:, :6], found.codes, atol=1e-3)


@pytest.mark.parametrize("numbers", [1, 4, 16])
def test_the_noise_of_the_first_atoms_is_what_they_leave(learned, numbers):
    dictionary, _ = learned
    atoms = np.asarray(dictionary.dictionary.basis(grid(SHAPE)), np.float64)[:, :numbers, 0]
    columns = np.concatenate([np.ones((len(atoms), 1)), atoms], 1)
    values = signals(24, 0).reshape(24, -1).T.astype(np.float64)
    left = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    noise = float(dictionary.first(numbers).prior.noise)
    assert noise == pytest.approx(np.square(left).mean(), rel=0.01, abs=1e-9)
    # Shrinkage of the covariance shows where the codes themselves are not known.
    fewer = dataclasses.replace(dictionary, prior=dictionary.prior._replace(codes=None))
    assert float(fewer.first(numbers).prior.noise) == pytest.approx(noise, rel=0.3)


def test_what_has_no_first_atoms(learned):
    dictionary, _ = learned
    for numbers, allowed in ((0, "1 or more"), (17, "at most 16, the experts")):
        with pytest.raises(nid.ArgumentError, match=f"numbers: {numbers}; allowed: .*{allowed}"):
            dictionary.first(numbers)
    stretched = copy.deepcopy(dictionary.dictionary)
    stretched.head_kernel[...] = stretched.head_kernel[...] * jnp.arange(1, 17)
    with pytest.raises(nid.ArgumentError, match="numbers: 3; allowed: .*not canonical"):
        dictionary.with_dictionary(stretched).first(3)


def test_a_config_asks_for_the_first_numbers(learned, unseen):
    dictionary, _ = learned
    config = dictionary.config.copy_and_resolve_references()
    config.fit.numbers = 6
    collection = ArrayCollection(unseen[..., None], [f"{i}" for i in range(5)], "unseen")
    found = dictionary.fit_collection(tasks.build(config), collection, config)
    expected = dictionary.first(6).fit(unseen, solver=nid.Ridge(lam=1e-6))
    np.testing.assert_allclose(found.codes, expected.codes, atol=1e-5)
    config.fit.numbers = 99
    with pytest.raises(nid.ArgumentError, match=r"fit\.numbers: 99; allowed: at most 16"):
        dictionary.fit_collection(tasks.build(config), collection, config)


def test_signals_of_another_unit_are_said_of_a_collection_too(learned, unseen):
    dictionary, _ = learned
    config = dictionary.config
    collection = ArrayCollection(5 + unseen[..., None], [f"{i}" for i in range(5)], "kelvins")
    with pytest.warns(nid.Notice, match="^kelvins: half of the values are above 5") as said:
        dictionary.fit_collection(tasks.build(config), collection, config)
    assert len(said) == 1


def collected(values, title):
    return ArrayCollection(values[..., None], [f"{i}" for i in range(len(values))], title)


def said_of(dictionary, config, collection):
    """What is said when a collection is fitted."""
    with gathered() as lines:
        dictionary.fit_collection(tasks.build(config), collection, config)
    return lines


def test_measurements_that_vanish_are_said_of_a_collection_too(learned, unseen):
    dictionary, _ = learned
    config = dictionary.config
    for largest, kind in ((1e-40, np.float32), (1e-40, np.float64), (1e-50, np.float64)):
        faint = collected(kind(largest) * (unseen > 0.5), "counts")
        (line,) = said_of(dictionary, config, faint)
        assert line.startswith(f"counts: values up to {largest:g}, too small for float32 to comp")
    assert not said_of(dictionary, config, collected(0 * unseen, "black"))


def test_measurements_of_any_operator_that_vanish_are_said(learned, unseen):
    dictionary, _ = learned
    config = dictionary.config
    blurred = nid.operators.blur(SHAPE, 1.0)
    values = np.float32(1e-40) * unseen.reshape(len(unseen), -1, 1)
    measured = Measured((blurred,), SHAPE, 1, values.__getitem__, whole=False)
    task = dataclasses.replace(tasks.build(config), measure=lambda _: measured)
    with gathered() as lines:
        dictionary.fit_collection(task, collected(unseen, "rays"), config)
    says = f"rays: values up to {values.max():.3g}, too small for float32"
    assert [line.startswith(says) for line in lines] == [True]


def test_occupancy_for_distances_is_said_of_a_collection_too(learned, unseen):
    dictionary, _ = learned
    config = dictionary.config
    distances = dataclasses.replace(dictionary, config=sdf.get_config())
    inside = collected(np.float32(unseen > 0.5), "voxels")
    (line,) = said_of(distances, config, inside)
    assert line.startswith("voxels: all values are 0 or 1, as of an occupancy grid, and the dictio")
    assert not said_of(dictionary, config, inside)
    # In training it is not known what is learned.
    assert not said_of(dataclasses.replace(distances, signals={}), config, inside)


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 254), ("int16", 65534), ("float16", None)])
def test_codes_in_few_bits_come_back_within_half_a_step(learned, unseen, tmp_path, dtype, levels):
    dictionary, _ = learned
    found = dictionary.fit(unseen)
    path = found.save(tmp_path / "codes.npz", dtype=dtype)
    with np.load(path) as stored:
        assert stored["codes"].dtype == dtype
    again = dictionary.load_fit(path)
    codes = np.asarray(found.codes, np.float64)
    half = np.ptp(codes, axis=0) / levels / 2 if levels else 2.0**-11 * np.abs(codes)
    assert (np.abs(again.codes - codes) <= 1.01 * half + 1e-7).all()


def test_a_workdir_and_one_file_hold_the_same_dictionary(learned, unseen, tmp_path):
    dictionary, workdir = learned
    codes = np.asarray(dictionary.fit(unseen).codes)
    for path in (workdir / "w", dictionary.save(tmp_path / "one.safetensors")):
        np.testing.assert_array_equal(nid.load(path).fit(unseen).codes, codes)


@pytest.mark.parametrize("numbers", [3, 16])
def test_the_first_atoms_are_saved_and_read(learned, tmp_path, numbers):
    few = learned[0].first(numbers)
    read = nid.load(few.save(tmp_path / "few.safetensors"))
    assert (read.num_experts, len(read.prior.mean)) == (numbers, numbers)
    assert read.config.dictionary.num_experts == numbers
    points = grid(SHAPE)
    np.testing.assert_array_equal(read.dictionary.basis(points), few.dictionary.basis(points))
    assert learned[0].config.dictionary.num_experts == 16


def test_the_first_sums_of_networks_are_saved_and_read(tmp_path):
    config = image.base()
    config.dictionary.update({"kind": "independent", "num_experts": 5, "num_layers": 2, "width": 3})
    config.dictionary.embedding.kind = "identity"
    model = build_model(config, (*SHAPE, 1), 4, 0)
    codes = np.random.default_rng(0).standard_normal((9, 5))
    described = {"shape": [*SHAPE, 1], "count": 4, "title": "waves", "ranked_by": "psnr"}
    few = nid.NeuralDictionary(model, config, described, fit_prior(codes)).canonical().first(2)
    read = nid.load(few.save(tmp_path / "few.safetensors"))
    assert (read.num_experts, len(read.prior.mean)) == (2, 2)
    points = grid(SHAPE)
    np.testing.assert_array_equal(read.dictionary.basis(points), few.dictionary.basis(points))
    assert read.first(1).num_experts == 1


def test_a_damaged_transform_is_named(learned, tmp_path):
    _, workdir = learned
    path = workdir / "w" / "canonical.npz"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="canonical.npz"):
            nid.load(workdir / "w")
    finally:
        path.write_bytes(whole)
