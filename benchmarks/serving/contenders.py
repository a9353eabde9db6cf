"""Who is measured: our servers, in this environment, and the peers, each in an environment of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serving import bodies
from benchmarks.serving.bodies import Form
from benchmarks.serving.plan import BINARY, JSON, Point
from benchmarks.serving.subject import CACHE, Backend

MODEL, GATEWAY, PEER = "model", "gateway", "peer"
_EAGER = Backend(name="eager")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One server set-up."""

    name: str
    title: str
    kind: str
    """One of MODEL (our model server), GATEWAY (ours in front of ``behind``), PEER."""
    workers: int
    forms: Mapping[str, Form]
    """By "binary" and "json"."""
    backend: Backend = _EAGER
    behind: str | None = None
    """The contender that computes for a gateway."""
    as_deployed: bool = False
    """With the inference log and the result cache on, as `firstlight serve` starts it; otherwise both are off."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Batch and concurrency of the points it takes part in; empty: all."""
    package: str = ""
    """The peer's package and the name of its folder and environment."""
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether the server is this project's."""
        return self.kind != PEER

    def takes_part(self, at: Point) -> bool:
        """Return whether it is measured at ``at``."""
        return at.form in self.forms and (not self.sizes or (at.batch, at.concurrency) in self.sizes)


def ours(model: str, backends: tuple[Backend, ...], *, workers: int) -> tuple[Contender, ...]:
    """Return our servers for the model of that name: every backend directly and through a gateway, the last one also as deployed."""
    path = f"/v2/models/{model}/infer"
    both = {BINARY: bodies.v2_binary(path), JSON: bodies.v2_json(path)}
    found = []
    for backend in backends:
        direct = f"ours-{backend.name}"
        title = f"First light, {backend.name}, {workers} workers"
        found.append(Contender(name=direct, title=title, kind=MODEL, workers=workers, forms=both, backend=backend))
        through = Contender(
            name=f"gateway-{backend.name}",
            title=f"First light, {backend.name}, through the gateway",
            kind=GATEWAY,
            workers=workers,
            forms={BINARY: both[BINARY]},
            backend=backend,
            behind=direct,
            note="the gateway's process in front of the model server above; no access file, no TLS",
        )
        found.append(through)
    deployed = Contender(
        name=f"deployed-{backends[-1].name}",
        title=f"First light, {backends[-1].name}, inference log and cache on",
        kind=MODEL,
        workers=workers,
        forms={BINARY: both[BINARY]},
        backend=backends[-1],
        as_deployed=True,
        sizes=((1, 1), (1, 32), (16, 8), (256, 8)),
        note="every request logged; the cache is asked, never hits and is filled, because no two requests are alike",
    )
    return (*found, deployed)


def peers(cores: int) -> tuple[Contender, ...]:
    """Return every peer with as many workers as there are cores, and LitServe with one too."""
    lit = {BINARY: bodies.raw("/predict"), JSON: bodies.columns("/predict", "application/octet-stream")}
    lit_note = "its batcher on (16 requests, 1 ms); bytes through `Annotated[bytes, Body()]`, JSON decoded in the worker; fast queue"
    parquet = {BINARY: bodies.mlflow_parquet("/invocations"), JSON: bodies.mlflow_json("/invocations")}
    parquet_note = "Parquet in; its answers are JSON whatever happens, so for Parquet a row's outputs go as one base64 text"
    v2 = {BINARY: bodies.v2_binary("/v2/models/model/infer"), JSON: bodies.v2_json("/v2/models/model/infer")}
    by_hand = {BINARY: bodies.raw("/"), JSON: bodies.columns("/")}
    bento = {BINARY: bodies.raw("/raw"), JSON: bodies.columns("/columns")}
    return (
        _peer("litserve", f"LitServe, {cores} workers", cores, lit, lit_note),
        _peer("litserve", "LitServe, 1 worker", 1, lit, lit_note),
        _peer("mlflow", f"MLflow models serve, {cores} workers", cores, parquet, parquet_note),
        _peer("kserve", f"KServe Python server, {cores} workers", cores, v2, "Open Inference Protocol V2, its binary extension both ways"),
        _peer("ray", f"Ray Serve, {cores} replicas", cores, by_hand, "its batcher on (16 requests, 1 ms); bytes read and written by hand"),
        _peer("bentoml", f"BentoML, {cores} workers", cores, bento, "octet-stream as a file in, bytes out: its batcher takes neither"),
    )


def _peer(package: str, title: str, workers: int, forms: Mapping[str, Form], note: str) -> Contender:
    name = f"{package}-1" if title.endswith("1 worker") else package
    return Contender(name=name, title=title, kind=PEER, workers=workers, forms=forms, package=package, note=note)


def pick(contenders: Sequence[Contender], names: Sequence[str]) -> tuple[Contender, ...]:
    """Return those of ``names`` and what their gateways stand in front of; all when there are no names."""
    behind = {contender.behind for contender in contenders if contender.name in names}
    return tuple(contender for contender in contenders if not names or contender.name in names or contender.name in behind)


def missing(contender: Contender) -> str | None:
    """Return why a peer cannot run here, or None."""
    if contender.kind == PEER and not (CACHE / contender.package / "installed").exists():
        return f"not installed: python -m benchmarks.serving install {contender.package}"
    return None
