"""Releases that are broken in every phase, on PostgreSQL, while callers ask: the short form of ``make chaos``. docs/reliability.md tells what is asked."""

import pytest

from tests.chaos import short

pytestmark = pytest.mark.timeout(1200)


def test_whatever_is_broken_on_postgresql_every_invariant_holds(tmp_path):
    short.run("postgresql", tmp_path)
