"""The noise-free light of the synthetic sky: breaks, lines and forests where physics puts them."""

import numpy as np
import pytest

from spectra.sky import galaxies, identity, quasars, stars
from spectra.sky.conditions import dust_transmission, fiber_throughput, noise_shape
from spectra.sky.grid import ARMS, GRID
from spectra.sky.observing import arm_share


def band(flux: np.ndarray, low: float, high: float) -> np.ndarray:
    return flux[:, (low <= GRID) & (high > GRID)].mean(axis=1)


def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def break_4000(kind: int) -> float:
    """Dn(4000) per frequency, after Balogh et al. 1999, at z = 0.3."""
    flux = galaxies.galaxy_flux(np.full(20, kind), np.full(20, 0.3), rng()) * GRID**2
    return float(np.median(band(flux, 4000 * 1.3, 4100 * 1.3) / band(flux, 3850 * 1.3, 3950 * 1.3)))


def test_old_galaxies_have_a_strong_break_and_young_ones_a_weak_one() -> None:
    assert 1.6 < break_4000(galaxies.QUIESCENT) < 2.1
    assert 1.0 < break_4000(galaxies.EMISSION_LINE) < 1.35
    assert break_4000(galaxies.EMISSION_LINE) < break_4000(galaxies.STAR_FORMING) < break_4000(galaxies.QUIESCENT)


@pytest.mark.parametrize("z", [0.1, 0.4])
def test_emission_lines_stand_where_the_redshift_puts_them(z: float) -> None:
    flux = galaxies.galaxy_flux(np.full(5, galaxies.EMISSION_LINE), np.full(5, z), rng())
    for line in (4862.69, 5008.24, 6564.61):
        at = line * (1 + z)
        assert (band(flux, at - 4, at + 4) > 1.5 * band(flux, at - 60, at - 40)).all(), line


def test_active_galaxies_are_more_excited_than_star_forming_ones() -> None:
    def ratio(kind: int) -> float:
        flux = galaxies.galaxy_flux(np.full(30, kind), np.full(30, 0.2), rng())
        oxygen, hydrogen = (band(flux, c * 1.2 - 8, c * 1.2 + 8) - band(flux, c * 1.2 + 30, c * 1.2 + 60) for c in (5008.24, 4862.69))
        return float(np.median(oxygen) / np.median(hydrogen))

    assert ratio(galaxies.ACTIVE) > 2 * ratio(galaxies.STAR_FORMING)


def test_galaxies_have_light_at_every_pixel_over_the_whole_redshift_range() -> None:
    flux = galaxies.galaxy_flux(np.arange(60) % 5, np.linspace(0.0, 1.65, 60), rng())
    assert np.isfinite(flux).all()
    assert (flux > 0).all()


@pytest.mark.parametrize(("z", "line"), [(0.5, 4862.7), (1.2, 2799.1), (2.0, 1908.7), (2.6, 1549.1), (3.0, 1215.67)])
def test_quasars_have_broad_lines_at_their_redshift(z: float, line: float) -> None:
    flux = quasars.quasar_flux(np.full(30, z), rng(), broad_absorption=0.0)
    at = line * (1 + z)
    assert np.median(band(flux, at, at + 15) / band(flux, at * 1.045, at * 1.055)) > 1.15


def test_the_forest_darkens_the_blue_side_of_lyman_alpha_more_at_higher_redshift() -> None:
    def transmission(z: float) -> float:
        flux = quasars.quasar_flux(np.full(40, z), rng())
        return float(np.median(band(flux, 1100 * (1 + z), 1150 * (1 + z)) / band(flux, 1280 * (1 + z), 1295 * (1 + z))))

    assert transmission(4.0) < transmission(2.6) < 1.15
    assert transmission(4.0) < 0.8


def test_stars_grow_bluer_with_temperature_and_carry_their_lines() -> None:
    temperature = np.array([3300.0, 4500.0, 5800.0, 9500.0, 15000.0])
    flux = stars.star_flux(temperature, np.ones(5), np.zeros(5))
    assert (np.diff(band(flux, 4400, 4700) / band(flux, 8000, 8400)) > 0).all()
    depth = 1 - band(flux, 4861, 4865) / band(flux, 4900, 4950)
    assert depth.argmax() == 3
    titanium = band(flux, 7060, 7120) / band(flux, 7000, 7045)
    assert titanium[0] < 0.8 < titanium[2]
    calcium = band(flux, 3930, 3940) / band(flux, 4000, 4050)
    assert calcium[2] < 0.5 < calcium[4]
    assert stars.spectral_type(temperature) == ["M", "K", "G", "A", "B"]


def test_a_stars_velocity_moves_its_lines() -> None:
    flux = stars.star_flux(np.full(2, 9500.0), np.ones(2), np.array([-400.0, 400.0]))
    window = (GRID > 6520) & (GRID < 6610)
    low, high = GRID[window][flux[:, window].argmin(axis=1)]
    assert high - low == pytest.approx(6564.6 * 800 / 299_792.458, abs=1.7)


def test_white_dwarf_lines_are_wider_than_those_of_a_star_as_hot() -> None:
    def width(flux: np.ndarray) -> float:
        continuum = float(band(flux, 5050, 5100)[0])
        return float((flux[0, (GRID > 4700) & (GRID < 5020)] < 0.9 * continuum * 1.1).sum())

    assert width(stars.white_dwarf_flux(np.array([12000.0]), np.zeros(1))) > width(
        stars.star_flux(np.array([12000.0]), np.ones(1), np.zeros(1))
    )


def test_dust_takes_more_from_the_blue() -> None:
    through = dust_transmission(np.array([0.0, 0.2]))
    assert (through[0] == 1).all()
    assert (np.diff(through[1]) > 0).all()
    assert -2.5 * np.log10(through[1][np.abs(GRID - 5500) < 0.5])[0] == pytest.approx(0.62, abs=0.01)


def test_the_arms_share_the_light_of_their_overlaps_without_loss() -> None:
    total = np.zeros(GRID.size)
    for arm in ARMS:
        total[arm.pixels] += arm_share(arm)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_petals_differ_slightly_and_the_noise_shape_is_as_measured() -> None:
    throughput = np.array([fiber_throughput(np.array([500 * p + 250]))[0] for p in range(10)])
    assert 0.05 < np.ptp(throughput) < 0.15
    assert noise_shape()[GRID < 3700].mean() == pytest.approx(8.9, rel=0.15)
    assert noise_shape()[(GRID > 7750) & (GRID < 9100)].min() < 0.6


def test_target_ids_are_unique_over_nights_surveys_and_serial_numbers() -> None:
    def draw(**changes: object) -> np.ndarray:
        return identity.target_ids(**({"seed": 1, "night": 20261001, "survey": "synthetic", "first": 0, "n": 2000} | changes))

    ids = [draw(), draw(night=20261002), draw(seed=2), draw(survey="other"), draw(first=2000), draw(sky=True)]
    together = np.concatenate(ids)
    assert len(np.unique(together)) == len(together)
    assert (together > 2**53).all()
    assert together.dtype == np.int64


def test_pixel_centres_agree_with_published_healpix_values() -> None:
    # nested nside 1 has its first base pixel at 45 degrees east, 41.81 north; pixel 4 of 12 at 0, 0
    ra, dec = identity.positions(np.array([0, 4 * 64**2, 8 * 64**2]), np.zeros(3, np.int64), depth=0)
    # the southernmost sub-pixel of each base pixel: 0 starts at the equator, at 45 degrees
    assert ra[0] == pytest.approx(45.0)
    assert dec[0] == pytest.approx(np.degrees(np.arcsin(2 / 3 * 1 / 64)), abs=1e-6)
    assert dec[1] == pytest.approx(-np.degrees(np.arcsin(2 / 3 * 63 / 64)), abs=1e-6)
    assert dec[2] < -89


def test_all_pixel_centres_are_distinct_and_spread_evenly() -> None:
    ra, dec = identity.positions(np.arange(49152, dtype=np.int64), np.zeros(49152, np.int64), depth=0)
    assert len(np.unique(np.round(np.c_[ra, dec], 6), axis=0)) == 49152
    assert np.sin(np.radians(dec)).mean() == pytest.approx(0, abs=1e-9)
    assert np.square(np.sin(np.radians(dec))).mean() == pytest.approx(1 / 3, abs=1e-3)


def test_a_quasar_whose_line_has_just_reached_the_grid_has_no_forest_yet() -> None:
    first = float(GRID[0]) / 1215.67 - 1

    through = quasars._forest(np.array([first + 1e-5, first + 0.01]), np.random.default_rng(1))

    assert (through[0] == 1).all()
    assert (through[1] < 1).any()
