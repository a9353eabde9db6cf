"""From a path or URI to spectra: what kind of file it is, which files belong beside it, and what to do with a bad one."""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from spectra import catalogues, desi, fitsfile, sdss
from spectra import metadata as meta
from spectra.batch import RefusedFile, SpectrumBatch, concatenate, empty
from spectra.errors import SpectraError
from spectra.hdus import Hdus
from spectra.tables import MAX_ROWS

_REDSHIFT_PREFIXES: Final = ("redrock-", "zbest-")
_TRUTH_PREFIXES: Final = ("truth-",)
_DESI_PREFIXES: Final = ("coadd-", "spectra-")
_FOLDER_PREFIXES: Final = (*_DESI_PREFIXES, "spec-")
_SUFFIXES: Final = (".fits", ".fits.gz")
_MAX_ROWS_IN_PIECES: Final = 1_000_000
"""Spectra of a file that is read piece by piece: only its tables are in memory as a whole, some hundred bytes a row."""

Join = Callable[..., dict[str, Any]]
_CATALOGUES: Final[tuple[tuple[tuple[str, ...], Join, frozenset[str]], ...]] = (
    (_REDSHIFT_PREFIXES, catalogues.redshifts, frozenset({"z", "zerr", "zwarn", "deltachi2", "spectype", "subtype"})),
    (_TRUTH_PREFIXES, catalogues.truth, frozenset({"true_spectype", "true_z", "anomaly", "has_truth"})),
)
"""What may lie beside a DESI file, and the columns it fills."""


class Store(Protocol):
    """Where s3:// files come from; :class:`spectra.object_store.ObjectStore` is one."""

    def local_copy(self, uri: str, folder: Path) -> Path:
        """Copy the object into ``folder`` and return the copy's path."""

    def exists(self, uri: str) -> bool:
        """Say whether there is such an object."""

    def list(self, uri: str) -> Iterable[str]:
        """Return the URIs of all objects under a prefix."""


def read(path_or_uri: str | Path, *, store: Store | None = None) -> SpectrumBatch:
    """Return the spectra of one DESI coadd or spectra file or SDSS spec file, plain or gzip, local or s3://.

    The redrock-, zbest- and truth- files beside a DESI file are found by name and joined on TARGETID. Rows that are no
    spectra of an object are in ``refused`` with their reason. Raises SpectraError when the file cannot be used, and
    TransientError when the store does not answer.
    """
    text = str(path_or_uri)
    if not is_uri(text):
        return _read_local(Path(path_or_uri), name=text)
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        return _read_local(fetched(text, Path(folder), store=store), name=text)


def fetched(uri: str, folder: Path, *, store: Store | None) -> Path:
    """Copy a remote file and the files that belong beside it into ``folder``, and return the copy's path.

    Raises SpectraError when it cannot be had, TransientError when the store does not answer.
    """
    if store is None or not uri.startswith("s3://"):
        raise SpectraError(
            f"{uri} must be a local path, or an s3:// URI read with an object store; give it the store or fetch the file first"
        )
    local = store.local_copy(uri, folder)
    for sibling in siblings(uri):
        if store.exists(sibling):
            store.local_copy(sibling, folder)
    return local


def pieces(
    path: str | Path,
    *,
    size: int,
    first: int = 0,
    stop: int | None = None,
    name: str | None = None,
    wanted: Collection[str] = meta.COLUMNS,
    masks: bool = True,
) -> Iterator[tuple[SpectrumBatch, int]]:
    """Yield the spectra of a local file (called ``name`` in what they say of their origin), at most ``size`` of its rows at a time.

    Only the rows from ``first`` to before ``stop`` (None: the end) are read, each piece when it is asked for, so that memory is bounded
    whatever the file holds; with each comes the number of the file's rows. Of the metadata only the
    columns ``wanted`` are sure to be there; what would fill none of them is not looked for. Without ``masks`` the masks are
    0 everywhere, and only ivar says which pixels are to be used. A file that is no DESI file is one piece.
    Raises SpectraError when the file cannot be used.
    """
    called = name or str(path)
    with fitsfile.opened(Path(path), name=called) as hdus:
        if not desi.matches(hdus):
            yield _read_other(hdus, name=called), 1
            return
        file = _desi(hdus, Path(path), most=_MAX_ROWS_IN_PIECES, name=called, wanted=wanted)
        end = file.rows if stop is None else min(stop, file.rows)
        for start in range(first, end, size):
            yield file.spectra(start, min(start + size, end), masks=masks), file.rows
        if first >= end:
            yield empty(), file.rows


def read_many(paths: Iterable[str | Path] | str | Path, *, store: Store | None = None) -> tuple[SpectrumBatch, list[RefusedFile]]:
    """Return the spectra of all files and the files that had to be refused; a bad file never costs a good one.

    A folder (or an s3:// URI ending in a slash) stands for the spectra files under it: coadd-*, spectra-* without its
    coadd, spec-*. A file given twice is read once. Raises TransientError when the store does not answer.
    """
    batches: list[SpectrumBatch] = []
    refused: list[RefusedFile] = []
    given = [paths] if isinstance(paths, str | Path) else paths
    for name in dict.fromkeys(name for path in given for name in find(path, store=store)):
        try:
            batches.append(read(name, store=store))
        except SpectraError as error:
            refused.append(RefusedFile(source_file=name, reason=str(error)))
    return concatenate(batches), refused


def find(path: str | Path, *, store: Store | None = None) -> list[str]:
    """Return the spectra files that ``path`` stands for: those of a folder or an s3:// URI ending in a slash, else the path itself."""
    return _expanded(str(path), store=store) or [str(path)]


def is_uri(text: str) -> bool:
    """Say whether ``text`` names something elsewhere rather than a local path."""
    return "://" in text


def siblings(path: str) -> list[str]:
    """Return the names under which the redshift and truth files of a DESI file may lie beside it, best first."""
    folder, slash, base = path.rpartition("/")
    prefix = next((prefix for prefix in _DESI_PREFIXES if base.startswith(prefix)), None)
    if prefix is None:
        return []
    stem = base.removeprefix(prefix).removesuffix(".gz").removesuffix(".fits")
    return [f"{folder}{slash}{kind}{stem}{suffix}" for kind in (*_REDSHIFT_PREFIXES, *_TRUTH_PREFIXES) for suffix in _SUFFIXES]


def spectra_files(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that a folder of spectra stands for, sorted; a spectra- file beside its coadd is left out."""
    wanted = sorted(name for name in names if _base(name).startswith(_FOLDER_PREFIXES) and name.endswith(_SUFFIXES))
    coadded = {_without_prefix(name, "coadd-") for name in wanted if _base(name).startswith("coadd-")}
    return [name for name in wanted if not (_base(name).startswith("spectra-") and _without_prefix(name, "spectra-") in coadded)]


def _base(name: str) -> str:
    return PurePosixPath(name).name


def _without_prefix(name: str, prefix: str) -> str:
    return str(PurePosixPath(name).with_name(_base(name).removeprefix(prefix).removesuffix(".gz")))


def _expanded(path: str, *, store: Store | None) -> list[str]:
    """Return the files a folder stands for, or nothing when ``path`` is no folder or an empty one."""
    if is_uri(path):
        return spectra_files(store.list(path)) if store is not None and path.endswith("/") else []
    return spectra_files(str(found) for found in Path(path).rglob("*.fits*")) if Path(path).is_dir() else []


def _read_local(path: Path, *, name: str) -> SpectrumBatch:
    with fitsfile.opened(path, name=name) as hdus:
        if not desi.matches(hdus):
            return _read_other(hdus, name=name)
        file = _desi(hdus, path, most=MAX_ROWS, name=name)
        return file.spectra(0, file.rows)


def _desi(hdus: Hdus, path: Path, *, most: int, name: str, wanted: Collection[str] = meta.COLUMNS) -> desi.DesiFile:
    """Return the open DESI file with what the catalogues beside it know."""
    file = desi.DesiFile(hdus, name=name, most=most, wanted=wanted)
    for prefixes, join, filled in _CATALOGUES:
        if not filled & set(wanted):
            continue
        file.metadata = meta.filled(file.metadata, _joined(path, prefixes, join, file.targetid, name=name))
    return file


def _joined(path: Path, prefixes: tuple[str, ...], join: Join, targetid: NDArray[np.int64], *, name: str) -> dict[str, Any]:
    """Return the columns of the first catalogue that lies beside ``path``, or nothing."""
    for sibling in siblings(str(path)):
        base = _base(sibling)
        if base.startswith(prefixes) and Path(sibling).exists():
            called = str(PurePosixPath(name).with_name(base)) if not is_uri(name) else f"{name.rpartition('/')[0]}/{base}"
            with fitsfile.opened(Path(sibling), name=called) as hdus:
                return join(hdus, targetid, name=called)
    return {}


def _read_other(hdus: Hdus, *, name: str) -> SpectrumBatch:
    if sdss.matches(hdus):
        return sdss.read(hdus, name=name)
    found = ", ".join(hdu or "unnamed" for hdu in hdus.names[:8])
    raise SpectraError(
        f"{name} must be a DESI coadd or spectra file or an SDSS spec file, found HDUs {found}; give spectra, not catalogues"
    )
