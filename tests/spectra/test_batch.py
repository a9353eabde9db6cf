"""Batches are taken apart and put together without losing what belongs to what."""

import numpy as np
import pandas as pd
import pytest

from spectra import SpectrumBatch, concatenate, read
from spectra.metadata import COLUMNS, table


@pytest.fixture
def batch(coadd, tmp_path):
    coadd.fibermap["OBJTYPE"][3] = "SKY"
    return read(coadd.write(tmp_path / "coadd.fits"))


def test_metadata_has_every_column_in_its_type_whatever_the_file_had(batch):
    assert tuple(batch.metadata.columns) == COLUMNS
    for name in ("targetid", "tileid", "petal", "fiber", "fiberstatus", "night", "desi_target"):
        assert batch.metadata[name].dtype == np.int64
    for name in ("z", "snr", "ebv", "mag_r", "masked_fraction", "true_z"):
        assert batch.metadata[name].dtype == np.float64
    assert batch.metadata.has_truth.dtype == bool
    assert isinstance(batch.metadata.index, pd.RangeIndex)


@pytest.mark.parametrize("index", [[2, 0], np.array([True, False, True]), slice(1, None), []], ids=["places", "choice", "slice", "none"])
def test_taking_keeps_arrays_and_metadata_together(batch, index):
    expected = np.arange(3)[np.asarray(index, dtype=int) if isinstance(index, list) else index]
    taken = batch.take(index)
    assert taken.targetid.tolist() == batch.targetid[expected].tolist() == taken.metadata.targetid.tolist()
    np.testing.assert_array_equal(taken.flux, batch.flux[expected])
    assert taken.metadata.index.tolist() == list(range(len(expected)))
    assert taken.refused == batch.refused
    assert taken.flux.flags.c_contiguous
    assert not np.shares_memory(taken.flux, batch.flux)


def test_concatenation_keeps_order_types_and_refusals(batch):
    both = concatenate([batch, batch.take([]), batch.take([1])])
    assert len(both) == 4
    assert both.targetid[3] == batch.targetid[1]
    assert both.metadata.dtypes.equals(batch.metadata.dtypes)
    assert len(both.refused) == 3 * len(batch.refused)


def test_no_batches_are_an_empty_batch_with_all_columns():
    nothing = concatenate([])
    assert len(nothing) == 0
    assert nothing.flux.shape == nothing.mask.shape == (0, 7781)
    assert tuple(nothing.metadata.columns) == COLUMNS


def test_parts_that_do_not_belong_together_are_a_programming_error(batch):
    with pytest.raises(ValueError, match="as many metadata rows"):
        SpectrumBatch(
            wavelength=batch.wavelength,
            flux=batch.flux,
            ivar=batch.ivar,
            mask=batch.mask,
            targetid=batch.targetid,
            metadata=batch.metadata.iloc[:1],
        )


def test_a_column_nobody_knows_is_a_programming_error():
    with pytest.raises(KeyError, match="redshfit"):
        table(1, {"redshfit": 1})
