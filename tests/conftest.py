"""What holds for all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: whole releases take minutes, and whoever begins with them has company to the end."""
    items.sort(key=lambda item: item.get_closest_marker("whole") is None)
