"""A model.pt2 that could run code is refused without torch having seen it; one that cannot is passed on, cleaned."""

import contextlib
import io
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models import archive
from models.errors import HandOffError
from models.handoff import load
from models.program import Program, export
from models.program_form import archive_bytes, declared_form
from tests.models import attacks
from tests.models.attacks import CONSTANTS, GRAPH, WEIGHTS, edit, pack, unpack
from tests.models.breaking import put
from tests.models.tiny import TinyModel, tiny_signals


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let torch find the modules an attack wants to import, and keep its complaints out of the test output."""
    monkeypatch.syspath_prepend(tmp_path)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    for name in ("imported_by_attack", "imported_as_enum"):
        sys.modules.pop(name, None)


def test_a_good_archive_has_no_reasons_by_path_or_by_bytes(tiny_handoff: Path, good_archive: bytes) -> None:
    assert archive.inspect(good_archive) == []
    assert archive.inspect(tiny_handoff / "model.pt2") == []


def test_inspection_does_not_import_torch(tiny_handoff: Path) -> None:
    program = "import sys; from models import archive; print(archive.inspect(sys.argv[1]), 'torch' in sys.modules)"
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", program, tiny_handoff / "model.pt2"], capture_output=True, text=True, cwd=root, check=True
    )
    assert answer.stdout == "[] False\n"


@pytest.mark.parametrize("attack", attacks.ALIVE, ids=lambda attack: attack.__name__)
class TestEveryKnownWayToRunCode:
    """Each is tried twice: given to torch it works, given to us it does not."""

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.filterwarnings("ignore")
    def test_the_attack_is_real(self, good_archive: bytes, tmp_path: Path, attack: Callable[[attacks.Members, Path], None]) -> None:
        members, marker = unpack(good_archive), tmp_path / "ran"
        attack(members, marker)
        with contextlib.suppress(Exception):  # it may fail afterwards: the code has run
            torch.export.load(io.BytesIO(pack(members))).module()(signal=torch.zeros(3, 50))
        assert marker.exists()

    @pytest.mark.usefixtures("quiet")
    def test_the_attack_is_refused_and_nothing_runs(
        self, broken: Path, good_archive: bytes, tmp_path: Path, attack: Callable[[attacks.Members, Path], None]
    ) -> None:
        members, marker = unpack(good_archive), tmp_path / "ran"
        attack(members, marker)
        evil = pack(members)
        put(broken, "model.pt2", evil)

        assert archive.inspect(evil) != []
        with pytest.raises(HandOffError, match=r"model\.pt2 is refused"):
            archive.rebuild(evil)
        with pytest.raises(HandOffError, match=r"model\.pt2 is refused"):
            Program.load(broken)
        assert not marker.exists()


def test_guards_are_not_handed_on_even_without_sample_inputs(good_archive: bytes) -> None:
    members = unpack(good_archive)
    edit(members, GRAPH, lambda value: value["guards_code"].append("print('evil')"))
    assert json.loads(unpack(archive.rebuild(pack(members)))[GRAPH])["guards_code"] == []


def test_where_the_trainer_keeps_his_code_is_not_handed_on() -> None:
    class Named(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": signal.sum(1)}

    exported = export(Named(), {"signal": np.zeros((2, 5), np.float32)})
    plain = io.BytesIO()
    torch.export.save(exported, plain)
    assert b"test_archive" in plain.getvalue()
    assert b"test_archive" not in archive_bytes(exported)


def test_the_same_program_gives_the_same_bytes(good_archive: bytes) -> None:
    assert archive.rebuild(good_archive) == archive.rebuild(archive.rebuild(good_archive)) == good_archive


def test_a_raw_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert "pickle" in archive.inspect(attacks.pickled(marker))[0]
    assert not marker.exists()


def test_a_torch_save_file_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert any("data.pkl" in reason and "pickle" in reason for reason in archive.inspect(attacks.torch_saved(marker)))
    assert not marker.exists()


def test_torchscript_is_refused() -> None:
    members = {"data.pkl": b"\x80\x02}.", "code/__torch__.py": b"x = 1", "constants.pkl": b"\x80\x02).", "version": b"3"}
    assert archive.inspect(pack(members))


@pytest.mark.parametrize("name", ["data/aotinductor/model/x.so", "data/aotinductor/model/wrapper.cpp", "data/weights/x.so"])
def test_native_code_is_refused(good_archive: bytes, name: str) -> None:
    reasons = archive.inspect(pack({**unpack(good_archive), name: b"\x7fELF"}))
    assert any("native code" in reason for reason in reasons)


@pytest.mark.parametrize(
    "name", ["../evil", "data/../../evil", "/etc/passwd", "a\\b", "data/weights/..", "a\x00b", "extra/note", "models/other.json"]
)
def test_members_that_climb_or_do_not_belong_are_refused(good_archive: bytes, name: str) -> None:
    assert archive.inspect(pack({**unpack(good_archive), name: b"x"}))


def test_an_absolute_root_is_refused(good_archive: bytes) -> None:
    assert archive.inspect(pack(unpack(good_archive), root="/tmp"))
    assert archive.inspect(pack(unpack(good_archive), root=".."))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_given_twice_is_refused(good_archive: bytes) -> None:
    buffer = io.BytesIO(good_archive)
    with zipfile.ZipFile(buffer, "a") as target:
        target.writestr(f"model/{GRAPH}", b"{}")
    assert any("twice" in reason for reason in archive.inspect(buffer.getvalue()))


def test_compression_is_refused_so_nothing_can_unfold(good_archive: bytes) -> None:
    members = {**unpack(good_archive), "data/weights/weight_9": bytes(50_000_000)}
    bomb = pack(members, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert any("bomb" in reason for reason in archive.inspect(bomb))


def test_members_that_overlap_are_refused(good_archive: bytes) -> None:
    """The quoted-overlap bomb: many entries of the table of contents point at the same bytes."""
    data = bytearray(good_archive)
    size = int.from_bytes(data[data.rfind(b"PK\x05\x06") + 12 :][:4], "little")
    start = data.rfind(b"PK\x05\x06") - size
    entry = data.index(b"PK\x01\x02", start)
    data[entry + 20 : entry + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    assert any("bomb" in reason for reason in archive.inspect(bytes(data)))


def test_an_encrypted_member_is_refused(good_archive: bytes) -> None:
    data = bytearray(good_archive)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert any("encrypted" in reason for reason in archive.inspect(bytes(data)))


def test_too_many_members_are_refused(good_archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    assert "at most 5 members" in archive.inspect(good_archive)[0]


def test_too_many_bytes_are_refused(tiny_handoff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 100)
    assert "at most 100 bytes" in archive.inspect(tiny_handoff / "model.pt2")[0]


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"\x89HDF", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(300)])
def test_what_is_no_archive_is_refused_in_words(data: bytes) -> None:
    assert archive.inspect(data)


def test_a_missing_file_is_a_reason_not_a_traceback(tmp_path: Path) -> None:
    assert "readable file" in archive.inspect(tmp_path / "none.pt2")[0]


@pytest.mark.parametrize("cut", [10, 200, 1000, 4000])
def test_a_truncated_archive_is_refused(good_archive: bytes, cut: int) -> None:
    assert archive.inspect(good_archive[:-cut])


def test_any_damaged_byte_leaves_a_clear_answer(good_archive: bytes) -> None:
    generator = np.random.default_rng(3)
    for position in generator.integers(0, len(good_archive), 300):
        damaged = bytearray(good_archive)
        damaged[position] ^= 1 << int(generator.integers(0, 8))
        archive.inspect(bytes(damaged))  # must not raise; a changed weight is not this module's question


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"config": NaN}'])
def test_json_that_is_none_is_refused(good_archive: bytes, content: bytes) -> None:
    assert archive.inspect(pack({**unpack(good_archive), GRAPH: content}))
    assert archive.inspect(pack({**unpack(good_archive), CONSTANTS: content}))


@pytest.mark.parametrize("name", ["archive_format", "byteorder", GRAPH, WEIGHTS, CONSTANTS, "data/sample_inputs/model.pt"])
def test_a_missing_member_is_named(good_archive: bytes, name: str) -> None:
    members = unpack(good_archive)
    del members[name]
    assert any(name in reason for reason in archive.inspect(pack(members)))


class Varied(torch.nn.Module):
    """Many things a spectral model does: convolution, attention, no_grad, interpolation, writing into a part of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 4, 5, stride=2, padding=2)
        self.norm = torch.nn.BatchNorm1d(4)
        self.attend = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.up = torch.nn.ConvTranspose1d(4, 1, 4, stride=2, padding=1)
        self.drop = torch.nn.Dropout()

    def forward(self, signal: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            scale = torch.quantile(signal.abs(), 0.5, dim=1, keepdim=True).clamp(min=1e-3)
        x = torch.where(weight > 0, signal / scale, torch.zeros_like(signal))
        x = torch.nn.functional.gelu(self.norm(self.conv(x.unsqueeze(1))))
        x = self.drop(torch.nn.functional.interpolate(x, size=16, mode="linear"))
        x = self.attend(x.transpose(1, 2))
        rebuilt = self.up(x.transpose(1, 2)).flatten(1)
        rebuilt[:, 0] = 0.0
        return {"hidden": x.mean(1), "rebuilt": rebuilt, "score": torch.einsum("ij,ij->i", rebuilt, rebuilt).sqrt()}


def test_a_model_with_many_kinds_of_layers_passes_and_answers_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Varied().eval()
    generator = np.random.default_rng(0)
    inputs = {"signal": generator.normal(size=(5, 32)).astype(np.float32), "weight": generator.random((5, 32)).astype(np.float32)}
    exported = export(module, inputs)
    form = declared_form(
        exported, units=dict.fromkeys(inputs, "1"), meanings=dict.fromkeys(["hidden", "rebuilt", "score"], "x"), rest={"epsilon": {}}
    )
    data = archive_bytes(exported)
    assert archive.inspect(data) == []

    found = Program(data, model=form, batch_size=2)(inputs)
    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-5)


def test_an_archive_saved_by_torch_itself_loads_when_it_has_no_examples(broken: Path) -> None:
    exported = export(TinyModel(), {"signal": tiny_signals(4)})
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    put(broken, "model.pt2", buffer.getvalue())
    assert Program.load(load(broken))({"signal": tiny_signals(3)})["score"].shape == (3,)
