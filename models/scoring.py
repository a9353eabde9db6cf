"""One version over many files of spectra: all cores, bounded memory, resumable, nothing lost.

Worker processes each read, score and write whole units of work (:mod:`models.scoring_worker`); this process only says who does what, and
brings files near before their turn. So reading, inference and writing overlap, on as many cores as there are. A finished unit is a part
beside the output; a run that was killed and is run again keeps the parts that the same version made from the same files. Rows and files
that cannot be scored go to a side table with their reasons; the others still count.

The calls that a file's rows share are the file's own, cut at the same rows always: a score depends neither on the number of workers, nor on
what else is scored, nor on how often the run was killed.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from firstlight.digest import sha256_bytes
from firstlight.errors import RefusedError, TransientError
from models.backends import CUDA, CUDA_BF16, EAGER
from models.handoff_folder import HandOff
from models.scored_parts import Found, Parts, Piece, add, file_key, finished, write_part
from models.scored_table import require_spectra, scores_schema, side_table
from models.scoring_crew import Crew, Event, Finished, Lost, Told
from models.scoring_sources import Sources
from models.scoring_worker import Post, Source, Unit
from spectra.errors import SpectraError
from spectra.reading import Store

_AHEAD = 6
"""Files a worker that are brought near before their turn."""
UNIT_ROWS = 2048
"""Rows of a file that are one unit of work: a second or two, and what a kill costs at most."""

_GROUP_BYTES = 160 << 20
_GROUP = 32
"""Files that are one unit together, as long as they have :data:`_GROUP_BYTES` at most: some DESI files, or SDSS files of one spectrum each."""

Progress = Callable[[int, int, int], None]
"""Is told (files done, files in all, spectra scored)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a scoring run left."""

    out: Path
    """Parquet table: one row per good spectrum, in the order of the files."""
    refused: Path
    """Parquet table: source_file, row (-1: the whole file), targetid, reason."""
    files: int
    rows: int
    refused_rows: int
    refused_files: int
    reused: int
    """Files that an earlier run had finished."""
    backend: str
    """What the model was run with."""
    instead: str
    """Why that is not the backend that was wanted; empty when it is."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_files(
    papers: HandOff,
    files: Sequence[str],
    out: Path,
    *,
    version: str,
    backend: str = EAGER,
    backend_digest: str | None = None,
    compiled: Path | None = None,
    workers: int | None = None,
    store: Store | None = None,
    progress: Progress = lambda done, total, rows: None,
) -> Scored:
    """Score every file, each once, and write ``out`` and its side table ``<out>.refused.parquet``.

    ``backend``, ``backend_digest`` and ``compiled`` are as :func:`models.backends.open_backend` has them; a backend that cannot be had here
    is replaced by the model as it was handed over, and the answer says why. ``workers`` is one a core unless given. Raises RefusedError when
    ``out`` cannot be written, no file is given or another run writes there, HandOffError when the model is refused or does not take
    spectra, TransientError when the store does not answer; what was scored until then is kept for the next run.
    """
    wanted = list(dict.fromkeys(files))
    if not wanted:
        raise RefusedError(
            "at least one file of spectra must be given, none was found: name coadd-*.fits, spectra-*.fits or spec-*.fits files or their folder"
        )
    require_spectra(papers.model.inputs)
    post = Post(
        folder=str(papers.folder),
        digest=papers.digest,
        version=version,
        backend=backend,
        compiled=None if compiled is None else str(compiled),
        backend_digest=backend_digest,
        device="cuda" if backend in (CUDA, CUDA_BF16) else "cpu",
    )
    with (
        Parts(out) as parts,
        Crew(post, size=workers or cores(), folder=parts.folder) as crew,
        Sources(store, ahead=_AHEAD * crew.size) as sources,
    ):
        maker = f"{papers.digest}:{version}:{crew.backend}:{backend_digest if crew.backend == backend else None}"
        # before reading: a file that changes meanwhile is scored again next time
        run = _Run(papers, {file: file_key(file, made_by=maker) for file in wanted}, parts, crew, sources, progress, version=version)
        run.finish()
        refused = out.with_name(out.stem + ".refused.parquet")
        schema = scores_schema(papers, version=version)
        rows, refused_rows, refused_files = parts.join(list(run.keys.values()), run.found, schema=schema, refused=refused)
        return Scored(
            out=out,
            refused=refused,
            files=len(wanted),
            rows=rows,
            refused_rows=refused_rows,
            refused_files=refused_files,
            reused=run.reused,
            backend=crew.backend,
            instead=crew.instead,
        )


class _Run:
    """Who does what, until every file is finished."""

    def __init__(
        self, papers: HandOff, keys: dict[str, str], parts: Parts, crew: Crew, sources: Sources, progress: Progress, *, version: str
    ) -> None:
        self.keys, self.found = keys, parts.found()
        self._parts, self._crew, self._sources, self._progress = parts, crew, sources, progress
        self._schema = scores_schema(papers, version=version)
        self._files = deque(file for file, key in keys.items() if not finished(self.found.get(key)))
        self._units: deque[Unit] = deque()
        self._alone: deque[Unit] = deque()
        """Units that a worker died of: each once more, with nothing else at work, when all others are done."""
        self._tried_alone: set[str] = set()
        self._cut: set[str] = set()
        """Parts whose file turned out to have more rows, which are units of their own since."""
        self._failure: TransientError | None = None
        self.reused = self._done = len(keys) - len(self._files)
        self._rows = sum(_rows(self.found, key) for key in keys.values() if finished(self.found.get(key)))

    def finish(self) -> None:
        """Work until nothing is missing. Raises TransientError when the store does not answer, after all that was fetched is finished."""
        self._tell()
        while True:
            if self._failure is None:
                self._plan()
            self._crew.offer(self._units)  # what was fetched before a failure too: it is not asked for again
            is_last = not self._units and (self._failure is not None or not self._files)
            if is_last and not self._crew.busy:
                self._crew.offer(self._alone, most=1)
                if not self._crew.busy:
                    break
            for event in self._crew.wait(0.05 if self._sources.waiting else None):
                self._hear(event)
        if self._failure is not None:
            raise self._failure

    def _plan(self) -> None:
        """Turn files into units as far as workers will soon want some."""
        self._sources.expect([file for file, _ in zip(self._files, range(_AHEAD * self._crew.size), strict=False)])
        while self._files and len(self._units) < 3 * self._crew.size and self._failure is None and self._sources.ready(self._files[0]):
            ready = self._next()
            if ready:
                self._units.extend(self._as_units(ready))

    def _next(self) -> list[Source]:
        """Take the next file, or the next few together; none when they are refused or the store does not answer."""
        taken: list[Source] = []
        size = 0
        # near the end groups are small: nobody shall wait for one who has many files left
        most = max(1, min(_GROUP, len(self._files) // (2 * self._crew.size)))
        while self._files and len(taken) < most and self._sources.ready(self._files[0]):
            file = self._files[0]
            try:
                path = self._sources.path(file)
            except SpectraError as error:
                self._refuse(Unit(part=self._part(file, 0), sources=(Source(name=file, path=file, key=self.keys[file]),)), str(error))
                self._files.popleft()
                continue
            except TransientError as error:
                self._failure = error
                break
            size += _bytes(path)
            alone = size > _GROUP_BYTES or file.endswith(".gz") or self.keys[file] in self.found
            if taken and alone:
                break
            taken.append(Source(name=file, path=str(path), key=self.keys[file]))
            self._files.popleft()
            if alone:
                break
        return taken

    def _as_units(self, sources: list[Source]) -> Iterator[Unit]:
        first = sources[0]
        if len(sources) > 1 or first.path.endswith(".gz"):  # a compressed file has no middle to begin at
            yield Unit(part=self._part(first.name, 0), sources=tuple(sources))
            return
        there = self.found.get(first.key, {})
        total = max((place.piece.total for place in there.values()), default=0)
        yield from (
            Unit(part=self._part(first.name, row), sources=(first,), first=row, stop=row + UNIT_ROWS, total=total)
            for row in range(0, max(total, 1), UNIT_ROWS)
            if row not in there
        )
        if total:
            self._cut.add(first.key)

    def _part(self, file: str, row: int) -> str:
        return str(self._parts.folder / f"{sha256_bytes(f'{self.keys[file]}:{row}'.encode())[:32]}.parquet")

    def _hear(self, event: Event) -> None:
        if isinstance(event, Told):
            self._cut_rest(event.unit, event.total)
        elif isinstance(event, Finished):
            self._keep(event.unit, event.pieces)
        else:
            self._mourn(event)

    def _cut_rest(self, unit: Unit, total: int) -> None:
        """Make units of the rows of a file that turned out to have more than one unit holds; they are next."""
        source = unit.sources[0]
        if unit.stop is None or total <= unit.stop or unit.first or source.key in self._cut:
            return
        self._cut.add(source.key)
        rest = [
            Unit(part=self._part(source.name, row), sources=unit.sources, first=row, stop=row + UNIT_ROWS, total=total)
            for row in range(UNIT_ROWS, total, UNIT_ROWS)
        ]
        self._units.extendleft(reversed(rest))

    def _keep(self, unit: Unit, pieces: Sequence[Piece]) -> None:
        add(self.found, Path(unit.part), pieces)
        for source in unit.sources:
            if finished(self.found[source.key]):
                self._done += 1
                self._rows += _rows(self.found, source.key)
                self._sources.done(source.name)
        self._tell()

    def _mourn(self, event: Lost) -> None:
        """Give back what a dead worker had; what it was working on is tried once more, file by file and alone, and then refused."""
        self._units.extendleft(reversed(event.returned))
        unit = event.blamed
        if unit is None:
            return
        if unit.part in self._tried_alone:
            self._refuse(
                unit,
                f"the process that scores it must live to the end, it died twice ({event.why}): look at the file, or give more memory",
            )
            return
        for source in unit.sources:
            single = unit if len(unit.sources) == 1 else Unit(part=self._part(source.name, 0), sources=(source,))
            self._alone.append(single)
            self._tried_alone.add(single.part)

    def _refuse(self, unit: Unit, reason: str) -> None:
        source = unit.sources[0]
        side = side_table([(source.name, -1, -1, reason)])
        piece = Piece(key=source.key, first=unit.first, stop=unit.stop, total=unit.total, rows=0, refused=1)
        write_part(Path(unit.part), self._schema.empty_table(), side, [piece])
        self._keep(unit, [piece])

    def _tell(self) -> None:
        self._progress(self._done, len(self.keys), self._rows)


def _rows(found: Found, key: str) -> int:
    return sum(place.piece.rows for place in found[key].values())


def _bytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
