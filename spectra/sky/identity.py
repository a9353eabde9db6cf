"""Names and places: target ids that no other night shares, and positions inside a HEALPix pixel."""

import hashlib
from datetime import date

import numpy as np
from numpy.typing import NDArray

NSIDE = 64
_MOCK_BIT = 58
_SKY_BIT = 59
_OBJECT_BITS, _BRICK_BITS = 22, 20


def target_ids(*, seed: int, night: int, survey: str, first: int, n: int, sky: bool = False) -> NDArray[np.int64]:
    """int64 ids in the survey's layout: object (22 bits), brick (20), release (16), mock flag (set), sky flag.

    The release field counts days since 2000, so nights never share an id; seeds share one with probability 1e-6.
    """
    days = (date(night // 10000, night // 100 % 100, night % 100) - date(2000, 1, 1)).days
    brick = int.from_bytes(hashlib.sha256(f"{survey} {seed}".encode()).digest()[:4], "big") % 2**_BRICK_BITS
    fixed = (1 << _MOCK_BIT) | (int(sky) << _SKY_BIT) | (days << (_OBJECT_BITS + _BRICK_BITS)) | (brick << _OBJECT_BITS)
    # an odd factor modulo 2**22 is a permutation: ids look unordered, and none comes twice
    objects = (np.arange(first, first + n, dtype=np.int64) * 2654435 + seed % 2**_OBJECT_BITS) % 2**_OBJECT_BITS
    return np.asarray(objects | np.int64(fixed), np.int64)


def draw_pixels(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n distinct nested pixels of nside 64 in the survey's footprint (declination -18 to 78 degrees)."""
    _, dec = positions(np.arange(12 * NSIDE**2, dtype=np.int64), np.zeros(12 * NSIDE**2, np.int64), depth=0)
    inside = np.flatnonzero((dec > -18) & (dec < 78))
    return np.asarray(inside[rng.choice(inside.size, n, replace=n > inside.size)], np.int64)


def positions(pixel: NDArray[np.int64], child: NDArray[np.int64], *, depth: int = 10) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RA and Dec (degrees) of centres of the ``child``-th of 4**depth parts of each nested pixel (Górski et al. 2005)."""
    nside = NSIDE << depth
    inner = (pixel % NSIDE**2 << 2 * depth) + child
    face = pixel // NSIDE**2
    x, y = _even_bits(inner), _even_bits(inner >> 1)
    ring = (face // 4 + 2) * nside - x - y - 1
    from_pole = np.minimum(np.minimum(ring, 4 * nside - ring), nside)
    cap = 1 - from_pole**2 / (3.0 * nside**2)
    height = np.where(ring < nside, cap, np.where(ring > 3 * nside, -cap, (2 * nside - ring) * 2 / (3.0 * nside)))
    shift = np.where(from_pole < nside, 0, (ring - nside) & 1)
    column = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])[face]
    step = (column * from_pole + x - y + 1 + shift) // 2
    step = np.where(step < 1, step + 4 * nside, np.where(step > 4 * nside, step - 4 * nside, step))
    longitude = (step - (shift + 1) * 0.5) * (90.0 / from_pole)
    return np.asarray(longitude % 360), np.asarray(np.degrees(np.arcsin(height)))


def _even_bits(value: NDArray[np.int64]) -> NDArray[np.int64]:
    out = np.zeros_like(value)
    for bit in range(16 + 10):
        out |= (value >> 2 * bit & 1) << bit
    return out
