"""``python -m serving model|gateway|supervise``: one process each. The first line on standard output is JSON and has the port."""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.errors import FirstlightError
from serving import process

if TYPE_CHECKING:
    from serving.process_staff import Nursery

FAILED = 1
"""Exit code after a sentence on standard error."""
_ROUTES_SECONDS = 5.0
"""Longest that a gateway under a supervisor waits for its routes before it answers that nobody is ready."""


def main(arguments: Sequence[str] | None = None, *, nursery: "Nursery | None" = None) -> int:
    """Run the process that ``arguments`` name until SIGTERM; return its exit code. ``nursery`` is one that was warmed for a model server."""
    options = _parser().parse_args(arguments)
    if options.role == "nursery":
        return _nursery(options)
    if options.role == "compare":
        return _compare(options)
    if options.log is not None:
        process.log_to(options.log)
    process.log_as_json(process=options.role)
    process.end_with_parent(options.parent, folder=options.children, patience=options.orphan_seconds)
    roles: dict[str, Callable[[argparse.Namespace], None]] = {
        "model": partial(_model, nursery=nursery),
        "standby": _standby,
        "gateway": _gateway,
        "supervise": _supervise,
    }
    try:
        roles[options.role](options)
    except FirstlightError as error:
        process.announce("failed", reason=str(error))
        sys.stderr.write(f"{error}\n")
        return FAILED
    return 0


def _model(options: argparse.Namespace, nursery: "Nursery | None" = None) -> None:
    from serving import options as documents
    from serving import tracing
    from serving.arena import Arena
    from serving.engine import Engine
    from serving.model_server import Identity, ModelServer
    from serving.nursery import Order
    from serving.process_staff import Processes, cores
    from serving.recorder import Recorder
    from serving.wire import Connection

    every = documents.parse(options.options)
    how = every.model
    listener = process.bind(host=options.host, port=options.port)
    process.announce("bound", role="model", port=process.port_of(listener))
    identity = Identity(model=options.name, version=options.version)
    recorder = Recorder.by_options(how, s3=every.s3, model=options.name, version=options.version, environment=every.environment)
    tracing.configure(every.otlp_endpoint, service="model-server", model=options.name, version=options.version)
    order = Order(
        folder=str(options.folder),
        name=options.name,
        model_digest=options.model_digest,
        handoff_digest=options.handoff_digest,
        backend=options.backend,
        backend_digest=options.backend_digest,
        compiled=None if how.compiled is None else str(how.compiled),
        version=options.version,
        signature=options.signature,
        trusted_keys=None if how.trusted_keys is None else str(how.trusted_keys),
        model_keys=None if how.model_keys is None else str(how.model_keys),
    )
    # Addresses for a thousand bodies of the largest size; pages are there only for what really came.
    arena = Arena(span=max(how.body_mb << 30, 4 * how.queue_mb << 20), hot_bytes=how.queue_mb << 20)
    staff = Processes(order, workers=how.workers or (1 if order.on_gpu else cores()), arena=arena, nursery=nursery)
    engine = Engine(staff, queue_requests=how.queue_requests, queue_bytes=how.queue_mb << 20, wait_seconds=how.max_wait_seconds)
    server = ModelServer(identity, engine=engine, recorder=recorder, body_bytes=how.body_mb << 20, cache_bytes=how.cache_mb << 20)
    try:
        process.serve(server.app(), listeners=[listener], http=Connection)
    finally:
        staff.stop()
        tracing.shutdown()


def _standby(options: argparse.Namespace) -> None:
    """Do the slow part of starting a model server, in two processes at once, then become the one that a line on standard input names."""
    import uvicorn  # noqa: F401

    import serving.inference
    import serving.model_server
    import serving.recorder  # noqa: F401
    from serving.process_staff import Nursery

    nursery = Nursery(standby=True)
    process.announce("warm", role="standby")
    line = sys.stdin.readline()
    if line:
        raise SystemExit(main(json.loads(line), nursery=nursery))


def _nursery(options: argparse.Namespace) -> int:
    from serving import nursery

    process.log_as_json(process="nursery")
    nursery.run(options.descriptor, standby=options.standby)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from serving import comparing

    os.nice(10)  # whoever waits for an answer comes first; much lower, and it would never get on while all are busy
    comparing.run(options.descriptor, options.memory)
    return 0


def _gateway(options: argparse.Namespace) -> None:
    from serving import exposure, handover, tracing
    from serving import options as documents
    from serving.access import Access, own_reader
    from serving.access_log import AccessLog
    from serving.errors import SettingsError
    from serving.gateway import Gateway
    from serving.listening import Listening, Sockets
    from serving.lobby import Limits
    from serving.tls import ServerTls

    every = documents.parse(options.options)
    how = every.gateway
    try:
        token = options.token_file.read_text().strip()
    except OSError as error:
        raise SettingsError(f"the token file {options.token_file} must be readable, got {error.strerror!r}") from error
    tls = None
    if how.tls_certificate is not None and how.tls_key is not None:
        tls = ServerTls(certificate=how.tls_certificate, key=how.tls_key, client_ca=how.tls_client_ca)
    access = None if how.access is None else Access(how.access, own=own_reader(options.model, _own_key(options.token_file)))
    public = process.bind(host=options.host, port=options.port) if options.fd is None else socket.socket(fileno=options.fd)
    exposure.check(public.getsockname()[0], how)
    control = process.bind(port=options.control_port)
    port, control_port = process.port_of(public), process.port_of(control)
    process.announce("bound", role="gateway", port=port, control_port=control_port)
    tracing.configure(every.otlp_endpoint, service="gateway")
    with contextlib.ExitStack() as stack:
        stack.callback(tracing.shutdown)
        if access is not None:
            stack.enter_context(access)
        log = stack.enter_context(AccessLog(options.token_file.with_name("access.log")))
        gateway = Gateway(options.model, token=token, options=how, access=access, access_log=log)
        door = None if options.children is None else handover.offer(options.children)
        if door is not None:
            stack.enter_context(door)
        sockets, limits = Sockets(public=public, control=control, tls=tls, door=door), Limits(connections=how.connections)
        Listening(gateway, sockets, limits=limits, patience_seconds=0.0 if options.fd is None else _ROUTES_SECONDS).run()


def _own_key(token_file: Path) -> str:
    """Return the key that the supervisor made for our own release flow; without a supervisor, one that nobody has."""
    from serving import access_keys
    from serving.control import READER_FILE

    try:
        return token_file.with_name(READER_FILE).read_text().strip()
    except FileNotFoundError:
        return access_keys.make().text


def _supervise(options: argparse.Namespace) -> None:
    from serving import options as documents
    from serving.supervisor import Settings, Supervisor

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    settings = Settings(
        environment=options.environment,
        models=tuple(options.model),
        state=options.state.absolute(),
        store_url=options.store,
        ledger_keys=options.ledger_keys,
        host=options.host,
        port=options.port,
        options=documents.parse(options.options),
        ready_seconds=options.ready_seconds,
        standby=not options.no_standby,
    )
    with Supervisor(settings) as supervisor:
        process.announce("bound", role="supervisor", port=int(supervisor.url.rsplit(":", 1)[1]), gateway_url=supervisor.url)
        process.log_to(settings.folder / "supervisor.log")
        supervisor.run(stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    for add in (_add_model, _add_standby, _add_gateway, _add_supervise):
        role = add(roles)
        role.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
        role.add_argument("--port", type=int, default=0, help="public port; 0 (default) takes a free one")
        role.add_argument("--log", type=Path, help="file to log to instead of standard error")
        role.add_argument("--parent", type=int, help="end when this process is gone")
        role.add_argument(
            "--children", type=Path, help="folder with the list of children in which another supervisor may name this process"
        )
        role.add_argument("--orphan-seconds", type=float, default=0.0, help="go on for so long while nobody does (default: end at once)")
        role.add_argument("--options", default="{}", help="how the processes behave (serving/options.py), as JSON")
    nursery = roles.add_parser("nursery", help="open one model and fork workers for it; a model server starts it")
    nursery.add_argument("--descriptor", type=int, required=True, help="the inherited socket to the model server")
    nursery.add_argument("--standby", action="store_true", help="import what a model needs before anybody asks")
    compare = roles.add_parser("compare", help="compare pairs of answers; a gateway starts it")
    compare.add_argument("--descriptor", type=int, required=True, help="the inherited socket to the gateway")
    compare.add_argument("--memory", type=int, required=True, help="the inherited memory that both share")
    return parser


def _add_model(roles: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    role = roles.add_parser("model", help="serve one version of one model")
    role.add_argument("folder", help="the hand-off folder")
    role.add_argument("--name", required=True, help="registered model name; must be the hand-off's")
    role.add_argument("--version", required=True, help="version it answers as")
    role.add_argument("--model-digest", help="sha256 that model.pt2 must have")
    role.add_argument("--handoff-digest", help="sha256 that handoff.yaml must have")
    role.add_argument("--backend", default="eager", help="how the model is run; the one its benchmark chose")
    role.add_argument("--signature", help="the pipeline's signature over the version (SSHSIG), as the store has it")
    role.add_argument("--backend-digest", help="sha256 that the backend's compiled file must have")
    return role


def _add_standby(roles: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    return roles.add_parser("standby", help="import what a model server needs, then wait on standard input for its arguments (a JSON list)")


def _add_gateway(roles: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    role = roles.add_parser("gateway", help="split requests over versions")
    role.add_argument("--model", action="append", required=True, help="a model it answers for; give it again for more")
    role.add_argument("--token-file", type=Path, required=True, help="file with the token that control asks for")
    role.add_argument("--control-port", type=int, default=0, help="loopback port of the control socket; 0 takes a free one")
    role.add_argument("--fd", type=int, help="an inherited listening socket to use instead of --host and --port")
    return role


def _add_supervise(roles: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    role = roles.add_parser("supervise", help="make the desired state of one or more models true, behind one gateway")
    role.add_argument("--environment", required=True)
    role.add_argument("--model", action="append", required=True, help="a model; give it again for more")
    role.add_argument("--state", type=Path, required=True, help="the state folder")
    role.add_argument("--store", required=True, help="URL of the rollout store")
    role.add_argument(
        "--ledger-keys", type=Path, help="file of the keys that seal the store's ledger; without it what is written there has no seal"
    )
    role.add_argument("--ready-seconds", type=float, default=60.0, help="longest that a model server may take to become ready")
    role.add_argument("--no-standby", action="store_true", help="keep no process warm for the next version")
    return role


if __name__ == "__main__":
    sys.exit(main())
