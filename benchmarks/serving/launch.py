"""Starting a contender: its command, its environment, its port. Its first answer is what counts as started."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

from benchmarks.serving.bodies import Body, Form
from benchmarks.serving.contenders import GATEWAY, PEER, Contender
from benchmarks.serving.processes import Tree
from benchmarks.serving.subject import CACHE, HERE, Array, Subject

PEERS = HERE / "peers"
REPOSITORY = HERE.parent.parent
_VERSION = "1"
_READY_SECONDS = 180.0
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ContenderError(Exception):
    """A server did not start, or answered something else than the model. It is left out, and this says why."""


class Running:
    """A contender that answers, with everything that must run for it."""

    def __init__(self, contender: Contender, tree: Tree, port: int, *, behind: "Running | None" = None) -> None:
        """``behind`` is the model server of a gateway."""
        self.contender, self.tree, self.port, self.behind = contender, tree, port, behind
        self.startup_seconds = self.difference = float("nan")
        self.memory_start: dict[str, Any] = {}

    @property
    def trees(self) -> tuple[Tree, ...]:
        """All that must run while it has its turn, upstream first."""
        return (*(self.behind.trees if self.behind else ()), self.tree)

    def cpu_seconds(self) -> float:
        """Return the processor seconds of all of them."""
        return sum(tree.cpu_seconds() for tree in self.trees)

    def __enter__(self) -> Self:
        """Let it run."""
        for tree in self.trees:
            tree.resume()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop it in time: whoever is next has the machine to itself."""
        for tree in reversed(self.trees):
            tree.pause()


def launch(contender: Contender, subject: Subject, *, folder: Path, behind: Running | None = None, device: str = "cpu") -> Running:
    """Start ``contender`` and wait for its first answer; ``folder`` takes its log and files. Raises ContenderError."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with ExitStack() as undo:
        if contender.kind == PEER:
            tree = _peer(contender, subject, port=port, folder=folder)
        elif contender.kind == GATEWAY:
            assert behind is not None
            tree = _gateway(subject, port=port, folder=folder, upstream=behind, undo=undo)
        else:
            tree = _model(contender, subject, port=port, folder=folder, device=device)
        undo.callback(tree.kill)
        running = Running(contender, tree, port, behind=behind)
        running.startup_seconds = _first_answer(running, subject)
        running.memory_start = tree.memory()
        undo.pop_all()
    return running


def _model(contender: Contender, subject: Subject, *, port: int, folder: Path, device: str) -> Tree:
    how: dict[str, Any] = {"workers": contender.workers, "queue_mb": 1024}
    if contender.as_deployed:
        how |= {"inference_log": str(folder / "inference-log")}
    else:
        how |= {"cache_mb": 0}
    if contender.backend.folder is not None:
        how |= {"compiled": str(contender.backend.folder)}
    command = [sys.executable, "-m", "serving", "model", str(subject.folder), "--name", subject.papers.name, "--version", _VERSION]
    command += ["--model-digest", subject.papers.model_digest, "--backend", contender.backend.name]
    if contender.backend.digest is not None:
        command += ["--backend-digest", contender.backend.digest]
    command += ["--port", str(port), "--options", json.dumps({"model": how})]
    return Tree(command, log=folder / "log", env=_environment(), cwd=REPOSITORY)


def _gateway(subject: Subject, *, port: int, folder: Path, upstream: Running, undo: ExitStack) -> Tree:
    from serving.control import Control
    from serving.errors import UnreachableError
    from serving.routes import Routes, Target

    token, control_port = secrets.token_hex(16), free_port()
    (folder / "token").write_text(token)
    command = [sys.executable, "-m", "serving", "gateway", "--model", subject.papers.name, "--token-file", str(folder / "token")]
    command += ["--port", str(port), "--control-port", str(control_port)]
    tree = Tree(command, log=folder / "log", env=_environment(), cwd=REPOSITORY)
    undo.callback(tree.kill)
    routes = Routes(generation=1, stable=Target(version=_VERSION, url=f"http://127.0.0.1:{upstream.port}"))
    while time.monotonic() - tree.started < _READY_SECONDS and tree.alive:
        with suppress(UnreachableError), Control(f"http://127.0.0.1:{control_port}", token=token) as control:
            control.put_routes(routes)
            break
        time.sleep(0.05)
    return tree


def _peer(contender: Contender, subject: Subject, *, port: int, folder: Path) -> Tree:
    package, python = contender.package, CACHE / contender.package / "bin" / "python"
    form = {"model": str(subject.folder / "model.pt2"), "inputs": subject.input_shapes, "outputs": subject.output_shapes}
    env = {
        **_environment(),
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(PEERS),
        "PEER_FORM": json.dumps(form),
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(contender.workers),
        "HOME": str(folder),  # what a peer remembers of a run goes with the run
        "TMPDIR": str(folder),
    }
    command = [str(python), str(PEERS / package / "app.py")]
    if package == "mlflow":
        subprocess.run([str(python), str(PEERS / package / "prepare.py"), str(folder / "model")], env=env, check=True, capture_output=True)
        address = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(contender.workers)]
        command = [str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(folder / "model"), "--env-manager", "local", *address]
    elif package == "bentoml":
        command = [str(python), "-m", "bentoml", "serve", "app:Api", "--working-dir", str(PEERS / package)]
    return Tree(command, log=folder / "log", env=env, cwd=folder)


def _environment() -> dict[str, str]:
    """One OpenMP thread a process, nothing sent anywhere, no settings of this project or of this Python."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FIRSTLIGHT"))}, **_QUIET}


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, path: str, body: Body, *, timeout: float = 60.0) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of one answer. Raises OSError or HTTPException."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body=body.data, headers=dict(body.headers))
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def _first_answer(running: Running, subject: Subject) -> float:
    form, said, tree = next(iter(running.contender.forms.values())), "nothing", running.tree
    body = form.body(subject.inputs(rows=1))
    while time.monotonic() - tree.started < _READY_SECONDS:
        if not tree.alive:
            raise ContenderError(f"it ended while it started; its log ends with: {tail(tree.log)}")
        with suppress(OSError, HTTPException):
            status, data, _ = ask(running.port, form.path, body, timeout=20.0)
            if status == 200:
                return time.monotonic() - tree.started
            said = f"{status} {data[:300]!r}"
        time.sleep(0.02)
    raise ContenderError(f"it must answer within {_READY_SECONDS:.0f} s, got {said}; its log ends with: {tail(tree.log)}")


def compare(running: Running, subject: Subject, asked: dict[str, Array], wanted: dict[str, Array]) -> float:
    """Return the largest difference of the answers to ``asked`` from ``wanted``, over all forms, in units of the hand-off's tolerance.

    Raises ContenderError when it is above 1, or something else came back.
    """
    worst = 0.0
    for form in running.contender.forms.values():
        found = _answer(running, form, subject, asked)
        try:
            worst = max(worst, subject.worst(found, wanted))
        except ValueError as error:
            raise ContenderError(f"{form.path}: {error}") from error
    if worst > 1:
        raise ContenderError(f"its answers must be the model's, got {worst:.3g} times the hand-off's tolerance away")
    return worst


def _answer(running: Running, form: Form, subject: Subject, asked: dict[str, Array]) -> dict[str, Array]:
    data, headers = form.encode(asked)
    status, answer, said = ask(running.port, form.path, Body(data=data, headers=headers, mark_at=0, mark_kind="raw"))
    if status != 200:
        raise ContenderError(f"{form.path} must answer 200, got {status}: {answer[:300]!r}")
    try:
        return form.decode(answer, said, subject.output_shapes)
    except (ValueError, KeyError, TypeError) as error:
        raise ContenderError(f"{form.path} must answer with the model's outputs, got {error!r}") from error


def tail(log: Path, size: int = 600) -> str:
    """Return the end of a log."""
    return log.read_bytes()[-size:].decode(errors="replace") if log.exists() else "nothing"


def version(contender: Contender) -> str:
    """Return the version of a peer's package."""
    code = f"import importlib.metadata as m; print(m.version({contender.package!r}))"
    python = CACHE / contender.package / "bin" / "python"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
