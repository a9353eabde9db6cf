"""Resampling keeps flux and propagates variance."""

import numpy as np
import pytest

from spectra.resampling import edges, resample

OLD = 10 ** (3.58 + 1e-4 * np.arange(3800))
NEW = 3600 + 0.8 * np.arange(7781)


def on_new_grid(flux, ivar):
    return resample(edges(OLD), flux, ivar, new_edges=edges(NEW))


def test_a_constant_stays_constant_and_its_variance_is_that_of_its_pixel():
    flux, ivar = on_new_grid(np.full(OLD.size, 3.0), np.full(OLD.size, 4.0))
    inside = (NEW > 3810) & (NEW < 9100)
    np.testing.assert_allclose(flux[inside], 3, rtol=1e-12)
    assert ivar[inside].min() >= 4 - 1e-9  # a mean of two pixels is never noisier than one


def test_the_integral_over_wavelength_is_kept():
    rng = np.random.default_rng(3)
    flux, ivar = rng.normal(1, 0.3, OLD.size), np.ones(OLD.size)
    new_flux, new_ivar = on_new_grid(flux, ivar)
    # Then the sum over whole new pixels equals the integral of the old histogram between the same ends
    whole = new_ivar > 0
    whole[np.flatnonzero(whole)[[0, -1]]] = False
    low, high = edges(NEW)[np.flatnonzero(whole)[0]], edges(NEW)[np.flatnonzero(whole)[-1] + 1]
    bins = edges(OLD)
    cumulative = np.concatenate([[0], np.cumsum(flux * np.diff(bins))])
    expected = np.interp(high, bins, cumulative) - np.interp(low, bins, cumulative)
    assert new_flux[whole].sum() * 0.8 == pytest.approx(expected, rel=1e-9)


def test_noise_has_the_variance_that_is_stated():
    rng = np.random.default_rng(4)
    sigma = rng.uniform(0.5, 2, OLD.size)
    drawn = np.array([on_new_grid(rng.normal(0, sigma), sigma**-2.0) for _ in range(300)])
    flux, ivar = drawn[:, 0], drawn[0, 1]
    inside = (NEW > 3810) & (NEW < 9100)
    scaled = flux.var(axis=0)[inside] * ivar[inside]
    assert scaled.mean() == pytest.approx(1, abs=0.02)
    assert scaled.min() > 0.6
    assert scaled.max() < 1.5


def test_a_bad_pixel_leaves_a_hole_of_its_own_size_and_no_trace_beside_it():
    flux, ivar = np.ones(OLD.size), np.ones(OLD.size)
    flux[2000], ivar[2000] = 1e9, 0
    new_flux, new_ivar = on_new_grid(flux, ivar)
    inside = (NEW > 3810) & (NEW < 9100)
    hole = inside & (new_ivar == 0)
    assert 1 <= hole.sum() <= 2
    assert abs(NEW[hole].mean() - OLD[2000]) < 0.8
    np.testing.assert_allclose(new_flux[inside & ~hole], 1)


def test_nothing_is_invented_outside_the_old_spectrum():
    flux, ivar = on_new_grid(np.ones(OLD.size), np.ones(OLD.size))
    outside = (edges(OLD)[0] > NEW + 0.5) | (edges(OLD)[-1] < NEW - 0.5)
    assert not flux[outside].any()
    assert not ivar[outside].any()


def test_a_line_stays_where_it_was():
    flux = np.exp(-0.5 * ((OLD - 6564.6) / 4) ** 2)
    new_flux, _ = on_new_grid(flux, np.ones(OLD.size))
    assert (new_flux * NEW).sum() / new_flux.sum() == pytest.approx(6564.6, abs=0.02)
