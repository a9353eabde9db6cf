"""A hand-off that was made to harm is refused with a sentence before anything is started, and the ledger keeps that sentence."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from firstlight.cli import releasing
from firstlight.digest import sha256_bytes
from firstlight.settings import Settings
from models import parquet_table
from models.errors import HandOffError
from models.handoff import load
from tasks import doors, releases
from tests.models import attacks
from tests.models.breaking import parquet, put, rewrite

Ledger = Callable[[], list[tuple[str, str, str]]]


def loader_module(folder: Path, marker: Path) -> None:
    """The file by which MLflow is told which module to import."""
    (marker.parent / "evil_loader.py").write_text(attacks.code(marker))
    put(folder, "MLmodel", b"flavors:\n  python_function:\n    loader_module: evil_loader\n    code: code\n")


def loader_module_as_data(folder: Path, marker: Path) -> None:
    loader_module(folder, marker)
    put(folder, "evil_loader.py", attacks.code(marker).encode())


def pickle_as_model(folder: Path, marker: Path) -> None:
    put(folder, "model.pt2", attacks.pickled(marker))


def checkpoint_as_model(folder: Path, marker: Path) -> None:
    put(folder, "model.pt2", attacks.torch_saved(marker))


def zip_bomb(folder: Path, _: Path) -> None:
    """Sixteen kilobytes that stand for sixteen megabytes; the same in a larger size fills a disk."""
    members = attacks.unpack((folder / "model.pt2").read_bytes())
    members["data/weights/weight_0"] = bytes(1 << 24)
    packed = attacks.pack(members, compression=zipfile.ZIP_DEFLATED)
    assert len(packed) < 1 << 17
    put(folder, "model.pt2", packed)


def table_bomb(folder: Path, _: Path) -> None:
    """A table of one value, which is stored once; the test below lets only so much of it unfold."""
    put(folder, "reference.parquet", parquet(pd.DataFrame({"z": np.full(1 << 20, 0.5)})))
    assert (folder / "reference.parquet").stat().st_size < 1 << 15


def yaml_bomb(folder: Path, _: Path) -> None:
    levels = "\n".join(f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    (folder / "handoff.yaml").write_text(f"name: tiny\nrecipe:\n  a: &a [x, x, x, x, x, x, x, x, x]\n{levels}\n")


def link(folder: Path, marker: Path) -> None:
    secret = marker.with_name("secret.parquet")
    secret.write_bytes((folder / "reference.parquet").read_bytes())
    (folder / "reference.parquet").unlink()
    (folder / "reference.parquet").symlink_to(secret)


def climb(folder: Path, _: Path) -> None:
    rewrite(folder, lambda document: document["files"].update({"../../secret.parquet": {"sha256": "0" * 64, "bytes": 1}}))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (loader_module, "MLmodel: must end in one of"),
        (loader_module_as_data, "evil_loader.py: must end in one of"),
        (pickle_as_model, "the file is a pickle"),
        (checkpoint_as_model, "model.pt2: "),
        (zip_bomb, "is compressed; torch stores members as they are"),
        (table_bomb, "reference.parquet: reference.parquet must unfold to at most"),
        (yaml_bomb, "an anchor or alias"),
        (link, "must be a plain file, found a symbolic link"),
        (climb, "found a path that leads elsewhere"),
    ],
)
def test_a_hostile_hand_off_is_refused_and_the_ledger_says_so(
    here: Settings,
    ledger: Ledger,
    spoiled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attack: Callable[[Path, Path], None],
    said: str,
) -> None:
    # Given a hand-off that an attacker has had
    marker = tmp_path / "ran"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(parquet_table, "MAX_TABLE_BYTES", 1 << 20)
    attack(spoiled, marker)
    # When somebody releases it
    with pytest.raises(HandOffError) as refused:
        releasing.refuse_early(here, str(spoiled))
    # Then a sentence says why, nothing of it ran, and nothing began
    assert said in str(refused.value)
    assert not marker.exists()
    assert not (here.state / "handoffs").exists()
    # and the ledger has it, under the name and the digest that the hand-off gave itself
    ((what, model, detail),) = ledger()
    assert (what, model) == ("refused-hand-off", "tiny" if attack is not yaml_bomb else here.model)
    assert str(refused.value).startswith(detail.removesuffix(" …"))
    assert said in detail
    with doors.store(here) as records:
        assert records.head().digest == sha256_bytes((spoiled / "handoff.yaml").read_bytes())


def test_one_weight_swapped_in_our_own_copy_is_refused_when_the_release_goes_on(here: Settings, ledger: Ledger, good_handoff: Path) -> None:
    # Given a hand-off that was kept, as for a release that waits for people
    kept = releases.keep(here, str(good_handoff)).folder
    assert ledger() == []
    # When one weight of our copy is another number, with the document as it was
    swap_a_weight(kept)
    with pytest.raises(HandOffError, match=r"model\.pt2: must have sha256"):
        releases.open_release.fn(str(good_handoff))
    # and when the document is made to fit
    model = (kept / "model.pt2").read_bytes()
    rewrite(kept, lambda document: document["files"]["model.pt2"].update(sha256=sha256_bytes(model), bytes=len(model)))
    with pytest.raises(HandOffError, match="the copy that was kept"):
        releases.open_release.fn(str(good_handoff))
    # Then both stand in the ledger, and no release of other bytes was opened
    assert [what for what, _, _ in ledger()] == ["refused-hand-off", "refused-hand-off"]


def swap_a_weight(folder: Path) -> None:
    """Change one weight of model.pt2 and leave the archive sound."""
    source = io.BytesIO((folder / "model.pt2").read_bytes())
    with zipfile.ZipFile(source) as archive:
        place = archive.getinfo(next(name for name in archive.namelist() if name.endswith("weights/weight_0")))
        weight = archive.read(place)
    changed = (np.frombuffer(weight, np.float32) + np.float32([1.0] + [0.0] * (len(weight) // 4 - 1))).tobytes()
    data = source.getvalue()
    assert data.count(weight) == 1
    (folder / "model.pt2").write_bytes(data.replace(weight, changed))


def test_a_good_hand_off_leaves_no_refusal(here: Settings, ledger: Ledger, good_handoff: Path) -> None:
    assert releasing.refuse_early(here, str(good_handoff)) == load(good_handoff).name == "tiny"
    assert ledger() == []
