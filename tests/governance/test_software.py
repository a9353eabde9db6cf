"""The list of the software comes from what is installed, and says what the lock file does not name."""

import importlib.metadata
from pathlib import Path

import pytest

from firstlight.digest import sha256_file
from governance import software


def test_the_packages_below_this_one_are_those_that_are_installed(tmp_path: Path) -> None:
    found = software.installed("jsonschema")
    by_name = {package.name: package for package in found.packages}
    assert {"jsonschema", "attrs", "referencing", "rpds-py"} <= by_name.keys()
    assert by_name["attrs"].version == importlib.metadata.version("attrs")
    assert by_name["attrs"].purl == f"pkg:pypi/attrs@{importlib.metadata.version('attrs')}"
    assert len(by_name["attrs"].record_sha256) == 64
    assert "attrs" in by_name["jsonschema"].requires
    document = found.to_dict()
    assert (document["lock_sha256"], document["unpinned"], document["reasons"]) == (None, None, ["no lock file was found"])
    assert document["verdict"] == "cannot tell"


def test_what_the_lock_file_does_not_name_is_said(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"# pins\nattrs==0.0.1 ; python_version < '3.9'\nattrs=={importlib.metadata.version('attrs')}\nreferencing==0.0.1\n")
    document = software.installed("jsonschema", lock=lock).to_dict()
    pinned = {package["name"]: package["pinned"] for package in document["packages"]}
    assert pinned["attrs"]
    assert not pinned["referencing"]
    assert document["lock_sha256"] == sha256_file(lock)
    assert any(reason.startswith("referencing ") for reason in document["reasons"])
    assert document["unpinned"] == sum(not held for name, held in pinned.items() if name != "jsonschema")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ({"a": ["b>=1", "C-c~=2; python_version>'3'"], "b": [], "c-c": ["a"]}, {"a": ("b", "c-c"), "b": (), "c-c": ("a",)}),
        ({"a": ["b[x,y]"], "b": ["c; extra == 'x'", 'd; extra == "z"'], "c": [], "d": []}, {"a": ("b",), "b": ("c",), "c": ()}),
        ({"a": ["gone", "; nonsense", ""]}, {"a": ()}),
        ({}, {}),
    ],
    ids=["names and circles", "extras", "not installed", "no root"],
)
def test_the_closure_follows_requirements_and_the_extras_they_ask_for(
    lines: dict[str, list[str]], found: dict[str, tuple[str, ...]]
) -> None:
    assert software.closure("a", lines.get) == found
