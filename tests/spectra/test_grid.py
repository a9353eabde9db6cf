"""The union grid and where the arms lie on it."""

import numpy as np
import pytest

from spectra import WAVELENGTH
from spectra.grid import ARMS


def test_grid_is_the_union_of_the_arms_of_the_survey():
    arms = [3600 + 0.8 * np.arange(2751), 5760 + 0.8 * np.arange(2326), 7520 + 0.8 * np.arange(2881)]
    assert np.allclose(WAVELENGTH, np.unique(np.concatenate(arms).round(4)), atol=1e-9)
    for arm, wavelength in zip(ARMS, arms, strict=True):
        assert np.abs(WAVELENGTH[arm.pixels] - wavelength).max() < 1e-9


def test_grid_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        WAVELENGTH[0] = 0
