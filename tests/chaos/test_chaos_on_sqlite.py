"""Releases that are broken in every phase, on SQLite, while callers ask: the short form of ``make chaos``. docs/reliability.md tells what is asked."""

import pytest

from tests.chaos import short

pytestmark = pytest.mark.timeout(1200)


def test_whatever_is_broken_on_sqlite_every_invariant_holds(tmp_path):
    short.run("sqlite", tmp_path)
