"""Cosines that are chosen by the training signals, beside a solve for all of them in float64."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import nid_jax as nid
from nid_jax import learning, tasks
from nid_jax.configs import image
from nid_jax.data import ArrayCollection
from nid_jax.fields.embeddings import ChosenCosines
from nid_jax.interop import exporting
from nid_jax.storage import one_file
from nid_jax.storage.models import Trained, load_model
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks.task import Measured
from nid_jax.training import checks, kept_cosines

seeds = st.integers(0, 2**32 - 1)


def named(values):
    return ArrayCollection(values, [f"{i:02d}" for i in range(len(values))], "drawn")


def along(size, k):
    return np.cos(np.pi * k * np.arange(size) / max(size - 1, 1))


def cosines(shape, frequencies):
    """Cosines [N, *shape] on a grid, float64."""
    return np.stack([outer(map(along, shape, one)) for one in frequencies])


def outer(columns):
    return functools.reduce(np.multiply.outer, columns)


def trapezoid(shape):
    ends = [np.where(np.isin(np.arange(n), (0, n - 1)) & (n > 1), 0.5, 1.0) for n in shape]
    return outer(ends)


def learned_on(signals, counts, num_kept, experts, folder, **train):
    """A dictionary of chosen cosines from a collection, in a workdir."""
    config = image.base()
    config.data.update({"name": "array", "size": signals.shape[:-1]})
    image.components(config)
    config.dictionary.num_experts = experts
    config.dictionary.embedding.update({"counts": counts, "num_kept": num_kept})
    config.train.update({"batch_size": len(signals), "checkpoint_every": 0, **train})
    config.prior.num_signals = len(signals)
    task = dataclasses.replace(tasks.build(config), open=lambda split: signals)
    return learning.train(task, config, Workdir(folder))[0]


@settings(max_examples=15, deadline=None)
@given(
    seeds,
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=3).filter(
        lambda sides: any(count > 1 for count, _ in sides)
    ),
    st.sampled_from(["box", "ball"]),
    st.integers(1, 3),
)
def test_the_choice_is_that_of_a_solve_for_every_cosine_of_the_grid(seed, sides, band, channels):
    """Coefficients of all cosines of the grid are those that give its samples back."""
    counts, shape = (
        tuple(column) for column in zip(*((n, n + more) for n, more in sides), strict=True)
    )
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(6, *shape, channels)) * 10 ** draw.normal(size=shape)[..., None]
    values = (values + 100 * draw.normal(size=(6, *[1] * len(shape), channels))).astype(np.float32)

    everything = list(itertools.product(*map(range, shape)))
    basis = cosines(shape, everything).reshape(len(everything), -1)
    flat = values.astype(np.float64).reshape(6, -1, channels)
    found = np.linalg.solve(basis.T, flat.transpose(1, 0, 2).reshape(len(basis), -1))
    norms = np.square(basis) @ trapezoid(shape).reshape(-1)
    energies = dict(zip(everything, np.square(found).sum(1) * norms, strict=True))
    lattice = [k for k in itertools.product(*map(range, counts)) if any(k)]
    if band == "ball":
        lattice = [
            k for k in lattice if sum((a / n) ** 2 for a, n in zip(k, counts, strict=True)) < 1
        ]
    num_kept = int(draw.integers(1, len(lattice) + 1))

    embedding = ChosenCosines(counts, num_kept, band)
    expected = np.array([energies[k] for k in lattice])
    measured = kept_cosines.lattice_energies(embedding, named(values))
    np.testing.assert_allclose(measured, expected, rtol=1e-6, atol=1e-9 * expected.max())
    words = kept_cosines.choose(embedding, named(values))
    best = sorted(lattice, key=energies.__getitem__, reverse=True)[:num_kept]
    kept = np.stack(np.unravel_index(embedding.places[...], counts), -1)
    assert sorted(best) == [tuple(map(int, k)) for k in kept]
    share = 100 * sum(energies[k] for k in best) / expected.sum()
    assert words == (
        f"{num_kept} of {len(lattice)} cosines, with {share:.4g}% of their energy in the signals"
    )


def test_of_equal_cosines_the_first_are_kept():
    embedding = ChosenCosines((3, 4), 5)
    kept_cosines.choose(embedding, named(np.zeros((2, 3, 4, 1), np.float32)))
    np.testing.assert_array_equal(embedding.places[...], [1, 2, 3, 4, 5])


SHAPE = (7, 9)


@pytest.fixture(scope="module")
def spanned(tmp_path_factory):
    """(workdir, dictionary, signals, frequencies) of signals in the span of few cosines."""
    draw = np.random.default_rng(41)
    pool = [k for k in itertools.product(*map(range, SHAPE)) if any(k)]
    chosen = sorted(pool[i] for i in draw.choice(len(pool), 12, replace=False))
    codes = draw.normal(size=(40, 12, 2)) * 0.2
    values = np.einsum("sec,epq->spqc", codes, cosines(SHAPE, chosen))
    values += draw.normal(size=(40, 1, 1, 2))
    signals = named(values.astype(np.float32))
    folder = tmp_path_factory.mktemp("spanned") / "run"
    return folder, learned_on(signals, (), 12, 24, folder), signals, chosen


def test_what_few_cosines_span_is_reproduced(spanned):
    _, dictionary, signals, chosen = spanned
    places = np.asarray(dictionary.dictionary.embedding.places[...])
    assert [tuple(map(int, k)) for k in np.stack(np.unravel_index(places, SHAPE), -1)] == chosen
    truth = np.stack([signals[i] for i in range(40)])
    np.testing.assert_allclose(dictionary.fit(truth).render(), truth, atol=1e-4)
    # And between the samples.
    points = np.random.default_rng(42).uniform(-1, 1, (50, 2)).astype(np.float32)
    codes = np.linalg.lstsq(
        np.c_[cosines(SHAPE, chosen).reshape(12, -1).T, np.ones(np.prod(SHAPE))],
        truth.astype(np.float64).reshape(40, -1, 2).transpose(1, 0, 2).reshape(-1, 80),
    )[0]
    there = [np.cos(np.pi * (points + 1) / 2 * k).prod(-1) for k in chosen]
    expected = (np.c_[np.stack(there, -1), np.ones(50)] @ codes).reshape(50, 40, 2)
    np.testing.assert_allclose(
        dictionary.fit(truth).at(points), expected.transpose(1, 0, 2), atol=1e-4
    )


def assert_same(one, other):
    """Two dictionaries, and what they make of signals, to the bit."""
    for a, b in zip(
        jax.tree.leaves((nnx.state(one.model), one.prior)),
        jax.tree.leaves((nnx.state(other.model), other.prior)),
        strict=True,
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_is_stored_comes_back_to_the_bit(spanned, tmp_path):
    folder, dictionary, signals, _ = spanned
    truth = np.stack([signals[i] for i in range(5)])
    assert dictionary.dictionary.embedding.places[...].dtype == jnp.int32
    whole = dictionary.save(tmp_path / "whole.safetensors")
    assert_same(nid.load(whole), dictionary)
    assert_same(nid.load(folder), dictionary)
    np.testing.assert_array_equal(
        nid.load(folder).fit(truth).render(), dictionary.fit(truth).render()
    )
    dictionary.save_pretrained(tmp_path / "half", dtype="float16")
    half = nid.NeuralDictionary.from_pretrained(tmp_path / "half")
    np.testing.assert_array_equal(
        half.dictionary.embedding.places[...], dictionary.dictionary.embedding.places[...]
    )
    half.save_pretrained(tmp_path / "again", dtype="float16")
    again = nid.NeuralDictionary.from_pretrained(tmp_path / "again")
    assert_same(again, half)
    np.testing.assert_allclose(half.fit(truth).render(), truth, atol=2e-3)


@pytest.mark.parametrize("baked", [True, False])
def test_an_exported_fit_is_that_of_its_dictionary(spanned, tmp_path, monkeypatch, baked):
    if not baked:
        monkeypatch.setattr(exporting, "BAKED_NUMBERS", 0)
    folder, dictionary, signals, _ = spanned
    truth = np.stack([signals[i] for i in range(3)])
    made = [nid.export(one, SHAPE, nid.Ridge()) for one in (dictionary, nid.load(folder))]
    file = made[0].save(tmp_path / "fit.bin")
    found = [one(truth)["picture"] for one in (*made, nid.ExportedFit.load(file))]
    np.testing.assert_allclose(found[0], truth, atol=1e-3)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_file_of_other_cosines_than_there_are_is_refused(spanned, tmp_path):
    _, dictionary, _, _ = spanned
    model = nnx.clone(dictionary.model)
    places = model.dictionary.embedding.places
    places.set_value(places[...].at[-1].set(7 * 9))
    file = tmp_path / "bad.safetensors"
    one_file.write(file, Trained(model, dictionary.config, dictionary.signals))
    with pytest.raises(ValueError, match=r"bad\.safetensors: places of cosines: not 12 of the 62"):
        nid.load(file)


@pytest.mark.slow
def test_descent_goes_on_from_chosen_cosines_and_resumes(tmp_path):
    signals = named(np.random.default_rng(43).normal(size=(8, 6, 5, 1)).astype(np.float32))
    train = {"checkpoint_every": 2, "points": 0}
    train["optimizer"] = {"name": "adam", "learning_rate": 1e-3, "schedule": "constant"}
    runs = [
        learned_on(signals, (), 9, 4, tmp_path / name, steps=steps, **train)
        for name, steps in (("whole", 4), ("parts", 2), ("parts", 4), ("none", 0))
    ]
    assert_same(runs[0], runs[2])
    places = [np.asarray(run.dictionary.embedding.places[...]) for run in runs]
    chosen = ChosenCosines((6, 5), 9)
    kept_cosines.choose(chosen, signals)
    for found in places:
        np.testing.assert_array_equal(found, chosen.places[...])
    stored = load_model(Workdir(tmp_path / "parts"), "latest").model
    np.testing.assert_array_equal(stored.dictionary.embedding.places[...], places[0])
    kernels = [np.asarray(run.dictionary.head_kernel[...]) for run in runs]
    assert (kernels[0] != kernels[3]).any()


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(), ("--config.mesh.data=2", "--local_processes=2")])
def test_the_command_line_chooses_stores_and_fits(shell, tmp_path, spread):
    """In processes of their own: what they share is in the workdir."""
    typed = [
        "--config=configs/image.py:smoke",
        "--config.dictionary.heads=components",
        "--config.dictionary.num_layers=1",
        "--config.dictionary.embedding.kind=cosine",
        "--config.dictionary.embedding.num_kept=20",
        "--config.train.steps=0",
        f"--workdir={tmp_path / 'run'}",
        *spread,
    ]
    done = shell(*typed)
    assert done.code == 0, done.err
    assert "20 of 624 cosines, with " in done.out + done.err
    assert (tmp_path / "run" / "fits" / "test" / "metrics.json").exists()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["dictionary"]["embedding"]["num_kept"] == 20
    known = load_model(Workdir(tmp_path / "run"), "latest")
    collection = tasks.build(known.config).open("train")
    chosen = ChosenCosines((25, 25), 20)
    kept_cosines.choose(chosen, collection)
    np.testing.assert_array_equal(known.model.dictionary.embedding.places[...], chosen.places[...])


def keeping(num_kept=6, **changes):
    config = image.base()
    image.components(config)
    config.dictionary.embedding.num_kept = num_kept
    config.update_from_flattened_dict(changes)
    return config


def test_other_heads_than_components_choose_no_cosines():
    checks.check(keeping())
    for heads, more in (("drawn", {"train.steps": 5}), ("waves", {"router.top_k": 2})):
        with pytest.raises(ValueError, match=rf"num_kept: 6; allowed with .*heads={heads}: 0, as"):
            checks.check(keeping(**{"dictionary.heads": heads, **more}))
    # Of an embedding that is none of cosines it is a key that nothing reads.
    splines = keeping(**{"dictionary.embedding.kind": "spline"})
    kept_cosines.check(splines)
    with pytest.raises(ValueError, match=r"dictionary\.embedding\.num_kept: -1; allowed: "):
        checks.check(keeping(-1))


@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({"dictionary.embedding.counts": (9, 8)}, 1, r"counts: \(9, 8\); allowed with num_kept=6"),
        ({"dictionary.embedding.counts": (8,)}, 1, r"counts: \(8,\); allowed: 2 numbers"),
        ({"dictionary.embedding.counts": (8, 8, 8)}, 1, r"counts: \(8, 8, 8\); allowed: 2 numb"),
        ({"dictionary.embedding.num_kept": 5000}, 2, r"num_kept: 5000; allowed: at most 4096, of"),
    ],
)
def test_signals_of_which_no_cosines_are_chosen(changes, channels, message):
    whole = tasks.image.sampled(named(np.zeros((3, 8, 8, channels), np.float32)))
    kept_cosines.check_signals(keeping(), whole, (8, 8, channels))
    with pytest.raises(ValueError, match=message):
        kept_cosines.check_signals(keeping(**changes), whole, (8, 8, channels))


def test_signals_that_are_not_known_whole_choose_no_cosines():
    message = "num_kept: 6; allowed: 0 where not all samples of every signal are known on one grid"
    shown = np.random.default_rng(0).random((3, 8, 8)) < 0.5
    values = np.zeros((3, 8, 8, 1), np.float32)
    holed = ArrayCollection(values, list("abc"), "holes", None, shown)
    with pytest.raises(ValueError, match=message):
        kept_cosines.check_signals(keeping(), tasks.image.sampled(holed), (8, 8, 1))
    views = nid.operators.parallel_beam((8, 8), 4)
    of_views = Measured((views,), (8, 8), 1, values=None, whole=False)
    clouds = Measured((), (8, 8), 1, values=None)
    some = Measured((nid.operators.mask((8, 8), shown[0]),), (8, 8), 1, values=None)
    doubled = Measured((2 * nid.operators.sample((8, 8)),), (8, 8), 1, values=None)
    for measured in (of_views, clouds, some, doubled):
        with pytest.raises(ValueError, match=message):
            kept_cosines.check_signals(keeping(), measured, (8, 8, 1))
