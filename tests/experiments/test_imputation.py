"""Filling in signals by interpolation and by principal components."""

import numpy as np
from peers import imputation


def test_components_fill_in_what_low_rank_signals_miss():
    draw = np.random.default_rng(101)
    rows = draw.normal(size=(60, 3)) @ draw.normal(size=(3, 40)) + draw.normal(size=40)
    seen = draw.uniform(size=rows.shape) < 0.6
    found = imputation.imputed(np.where(seen, rows, 0), seen)
    np.testing.assert_array_equal(found[seen], rows[seen])
    # Rows with hardly anything seen may go astray.
    errors = np.square(np.where(seen, 0, found - rows)).sum(1) / np.maximum((~seen).sum(1), 1)
    assert np.median(errors) < 0.05 * rows.var()


def test_planes_are_interpolated_exactly():
    draw = np.random.default_rng(102)
    slopes = draw.normal(size=(2, 2))
    rows, columns = np.indices((9, 8))
    planes = np.stack([a * rows + b * columns for a, b in slopes])[..., None]
    seen = draw.uniform(size=planes.shape[:3]) < 0.4
    seen[:, ::8, ::7] = True
    found = imputation.interpolated(np.where(seen[..., None], planes, np.nan), seen)
    np.testing.assert_allclose(found, planes, atol=1e-6)
