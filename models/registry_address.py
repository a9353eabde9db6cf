"""Where a registry is: does anything answer there, and what is said when it does not. Knows databases and sockets, not MLflow.

MLflow tries a database that does not answer for a minute and a half and a server for several minutes before it says so; asking
once first makes that a sentence within seconds.
"""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from models.registry_errors import unreachable, unusable

_PATIENCE_SECONDS = 5.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def require_answer(uri: str) -> None:
    """Return when a server or database answers at ``uri``; a SQLite file that is not there yet is fine when it can be made.

    Raises RegistryUnreachable within seconds when nothing answers, RegistryError when the address itself is wrong.
    """
    if is_server(uri):
        _require_server(uri)
        return
    _require_listener(uri)
    _require_database(uri)


def is_server(uri: str) -> bool:
    """Say whether ``uri`` is the address of an MLflow server; otherwise it is that of a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI, None for anything else."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _require_server(uri: str) -> None:
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_PATIENCE_SECONDS)
        if answer.status_code >= 500:
            answer.raise_for_status()
    except (requests.exceptions.InvalidURL, requests.exceptions.SSLError) as error:
        raise unusable(uri, error) from error
    except requests.RequestException as error:
        raise unreachable(uri, error) from error


def _require_listener(uri: str) -> None:
    try:
        address = urlsplit(uri)
        port = address.port or _PORTS.get(address.scheme.partition("+")[0])
    except ValueError as error:
        raise unusable(uri, error) from None
    if address.hostname is None or port is None:
        return
    try:
        socket.create_connection((address.hostname, port), timeout=_PATIENCE_SECONDS).close()
    except OSError as error:
        raise unreachable(uri, error) from error


def _require_database(uri: str) -> None:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

    try:
        if (file := sqlite_file(uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()
    except OperationalError as error:
        raise unreachable(uri, error) from error
    except (ArgumentError, DatabaseError, ImportError, OSError) as error:
        raise unusable(uri, error) from error
