"""Compiled models: made once whoever asks and whatever is killed, loaded by digest only, and gone without harm."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from firstlight.digest import sha256_bytes
from models.backends import AOT, EAGER, ONNX, compiled, compiling
from models.backends.compiled import Form, Manifest, tensor_form
from models.backends.compiling import compile_ahead, compile_backend
from models.errors import BackendUnavailable, HandOffError
from models.handoff import HandOff, load
from tests.models.tiny import write_tiny_handoff

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def papers(tiny_handoff: Path) -> HandOff:
    return load(tiny_handoff)


def form_of(papers: HandOff) -> Form:
    inputs, outputs = ([tensor_form(spec) for spec in specs] for specs in (papers.model.inputs, papers.model.outputs))
    return Form(inputs=tuple(inputs), outputs=tuple(outputs), writes=False)


def stub(papers: HandOff, *, file: str = "model.onnx", first: str = "") -> Callable[..., list[str]]:
    """Return what starts a compiler that needs no torch: after ``first`` it writes a file of random bytes, as no two compilations agree."""
    text = (
        "import os, sys, time; target = sys.argv[1]; {first};"
        "open(target + '/{file}', 'wb').write(os.urandom(64)); open(target + '/form.json', 'w').write({form!r})"
    ).format(first=first or "pass", file=file, form=form_of(papers).model_dump_json())
    return lambda handoff, name, scratch: [sys.executable, "-S", "-c", text, str(scratch)]


@pytest.fixture
def quick(papers: HandOff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_command", stub(papers))


@pytest.fixture
def made(papers: HandOff, quick: None, tmp_path: Path) -> compiled.Compiled:
    return compile_backend(papers, ONNX, folder=tmp_path)


# --- made once --------------------------------------------------------------------------------------------------------


def test_a_model_is_compiled_once_and_found_again(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    again = compile_backend(papers, ONNX, folder=tmp_path)
    assert (again.digest, again.seconds) == (made.digest, 0.0)
    assert made.seconds > 0
    manifest, data = compiled.read(tmp_path, made.digest, handoff=papers, backend=ONNX)
    assert (manifest.sha256, manifest.size) == (sha256_bytes(data), 64)
    assert sha256_bytes((made.path / "manifest.json").read_bytes()) == made.digest
    assert not list(tmp_path.glob(".making-*"))


def test_many_who_ask_at_once_get_the_same_file(papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_command", stub(papers, first="time.sleep(0.3)"))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(compile_backend(papers, ONNX, folder=tmp_path).digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_who_waits_too_long_for_another_is_told(papers: HandOff, quick: None, tmp_path: Path) -> None:
    compile_backend(papers, ONNX, folder=tmp_path)
    with (
        compiling._alone(tmp_path / "by-key" / f"{compiled.key(papers, ONNX)}.lock", until=time.monotonic() + 5),
        pytest.raises(BackendUnavailable, match="another process compiles"),
    ):
        compile_backend(papers, ONNX, folder=tmp_path, seconds=0.2)


def test_another_model_another_library_or_another_processor_is_another_file(
    papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load(write_tiny_handoff(tmp_path / "other", seed=2))
    keys = {compiled.key(papers, ONNX), compiled.key(papers, AOT), compiled.key(other, ONNX), compiled.key(other, AOT)}
    monkeypatch.setattr(compiled, "processor_abilities", lambda: "an older processor")
    keys |= {compiled.key(papers, AOT), compiled.key(papers, ONNX)}
    monkeypatch.setattr(compiled, "version", lambda name: "0.1")
    keys |= {compiled.key(papers, AOT), compiled.key(papers, ONNX)}
    assert len(keys) == 4 + 1 + 2


def test_compiling_ahead_raises_nothing_and_leaves_what_the_choice_finds(papers: HandOff, quick: None, tmp_path: Path) -> None:
    compile_ahead(papers, [EAGER, ONNX], folder=tmp_path, seconds=60).join()
    assert compile_backend(papers, ONNX, folder=tmp_path).seconds == 0.0
    (tmp_path / "file").write_text("no folder")
    compile_ahead(papers, [ONNX], folder=tmp_path / "file", seconds=60).join()


# --- what cannot be made ----------------------------------------------------------------------------------------------


def test_what_cannot_be_compiled_says_why(papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="it needs no file"):
        compile_backend(papers, EAGER, folder=tmp_path)
    monkeypatch.setattr(compiling, "_command", stub(papers, first="sys.exit('too old a torch')"))
    with pytest.raises(BackendUnavailable, match=r"code 1 \(too old a torch\)"):
        compile_backend(papers, ONNX, folder=tmp_path)
    monkeypatch.setattr(compiling, "_command", stub(papers, first="print('a bad model', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(HandOffError, match="a bad model"):
        compile_backend(papers, ONNX, folder=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendUnavailable, match=r"needs a C\+\+ compiler"):
        compile_backend(papers, AOT, folder=tmp_path)
    assert compiled.remembered(tmp_path, papers, ONNX) is None


def test_a_compilation_that_takes_too_long_is_ended_with_all_it_started(
    papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pid"
    child = f"import subprocess; p = subprocess.Popen(['/bin/sleep', '60']); open({str(note)!r}, 'w').write(str(p.pid)); p.wait()"
    monkeypatch.setattr(compiling, "_command", stub(papers, first=child))
    with pytest.raises(BackendUnavailable, match="within its time"):
        compile_backend(papers, ONNX, folder=tmp_path / "compiled", seconds=2)
    assert gone(int(note.read_text()))
    assert [entry.name for entry in (tmp_path / "compiled").iterdir()] == ["by-key"]


def test_a_folder_that_cannot_be_written_is_a_sentence(papers: HandOff, quick: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="must be writable"):
        compile_backend(papers, ONNX, folder=tmp_path / "file")


def test_kill_9_of_who_asked_ends_the_compilation_and_the_next_one_cleans_up(
    papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process that waits for a real compilation
    text = f"""
from pathlib import Path
from models.handoff import load
from models.backends.compiling import compile_backend
compile_backend(load({str(papers.folder)!r}), "onnx", folder=Path({str(tmp_path)!r}))
"""
    asking = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT)
    try:
        compiler = wait_for_child(asking.pid)
        # When it is killed in the middle
        os.kill(asking.pid, signal.SIGKILL)
    finally:
        asking.kill()
        asking.wait()
    # Then the compilation ends too, nothing counts as made, and the next who asks finds no hindrance
    assert gone(compiler)
    assert len(list(tmp_path.glob(".making-*"))) == 1
    assert compiled.remembered(tmp_path, papers, ONNX) is None
    monkeypatch.setattr(compiling, "_command", stub(papers))
    made = compile_backend(papers, ONNX, folder=tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["by-key", made.digest])


def wait_for_child(parent: int) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in psutil.Process(parent).children():
            if "models.backends.compiler" in child.cmdline():
                return child.pid
        time.sleep(0.02)
    raise AssertionError("no compilation began")


def gone(pid: int) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


# --- read by digest ---------------------------------------------------------------------------------------------------


def read(papers: HandOff, folder: Path, made: compiled.Compiled, backend: str = ONNX) -> None:
    compiled.read(folder, made.digest, handoff=papers, backend=backend)


def test_a_changed_file_is_refused(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    data = bytearray((made.path / "model.onnx").read_bytes())
    data[10] ^= 1
    (made.path / "model.onnx").write_bytes(data)
    with pytest.raises(HandOffError, match="somebody changed it") as refusal:
        read(papers, tmp_path, made)
    assert not isinstance(refusal.value, BackendUnavailable), "a server would run eagerly instead of refusing"
    (made.path / "model.onnx").write_bytes(bytes(65))
    with pytest.raises(HandOffError, match="somebody changed it"):
        read(papers, tmp_path, made)


def test_a_changed_manifest_is_refused(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    place = made.path / "manifest.json"
    place.write_bytes(place.read_bytes().replace(b'"writes":false', b'"writes":true'))
    with pytest.raises(HandOffError, match="somebody changed it"):
        read(papers, tmp_path, made)


def test_a_manifest_that_has_the_digest_but_makes_no_sense_is_refused(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    good = Manifest.model_validate_json((made.path / "manifest.json").read_bytes())
    for data, said in (
        (b"{}", "must be a manifest"),
        (good.model_copy(update={"file": "../../../etc/passwd"}).to_bytes(), "must say"),
        (good.model_copy(update={"format": "x"}).to_bytes(), "must say"),
        (good.model_copy(update={"size": 1 << 40}).to_bytes(), "at most"),
        (good.model_copy(update={"form": good.form.model_copy(update={"inputs": ()})}).to_bytes(), "what the hand-off declares"),
    ):
        folder = tmp_path / sha256_bytes(data)
        folder.mkdir()
        (folder / "manifest.json").write_bytes(data)
        with pytest.raises(HandOffError, match=said):
            compiled.read(tmp_path, folder.name, handoff=papers, backend=ONNX)


def test_the_file_of_another_model_or_backend_is_refused(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    other = load(write_tiny_handoff(tmp_path / "other", seed=2))
    with pytest.raises(HandOffError, match="must be of model"):
        read(other, tmp_path, made)
    with pytest.raises(HandOffError, match="must be of model"):
        read(papers, tmp_path, made, backend=AOT)


def test_what_is_not_here_or_not_for_here_is_unavailable_not_refused(
    papers: HandOff, made: compiled.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, digest in ((None, made.digest), (tmp_path, None)):
        with pytest.raises(BackendUnavailable, match="one was not given"):
            compiled.read(folder, digest, handoff=papers, backend=ONNX)
    with pytest.raises(BackendUnavailable, match="must be there"):
        compiled.read(tmp_path, "0" * 64, handoff=papers, backend=ONNX)
    with pytest.raises(HandOffError, match="64 hex digits"):
        compiled.read(tmp_path, "../by-key", handoff=papers, backend=ONNX)
    monkeypatch.setattr(compiled, "version", lambda name: "0.1")
    with pytest.raises(BackendUnavailable, match="for this onnxruntime and torch"):
        read(papers, tmp_path, made)


def test_native_code_for_another_processor_is_not_loaded(papers: HandOff, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("without g++ nothing native is made")
    monkeypatch.setattr(compiling, "_command", stub(papers, file="model.so"))
    made = compile_backend(papers, AOT, folder=tmp_path)
    monkeypatch.setattr(compiled, "processor_abilities", lambda: "an older processor")
    with pytest.raises(BackendUnavailable, match="for this processor"):
        read(papers, tmp_path, made, backend=AOT)


def test_a_link_is_not_followed(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    shutil.move(made.path / "model.onnx", tmp_path / "elsewhere")
    (made.path / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendUnavailable, match="a file that can be read"):
        read(papers, tmp_path, made)


def test_a_file_that_others_may_change_or_somebody_broke_is_made_again(papers: HandOff, made: compiled.Compiled, tmp_path: Path) -> None:
    made.path.chmod(0o777)
    anew = compile_backend(papers, ONNX, folder=tmp_path)
    assert anew.digest != made.digest
    (anew.path / "model.onnx").write_bytes(b"")
    assert compile_backend(papers, ONNX, folder=tmp_path).digest not in (made.digest, anew.digest)
