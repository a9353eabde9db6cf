"""What the registry refuses and what may pass, and which of the two an error of MLflow, a database or S3 is."""

from typing import Any

from firstlight.errors import RefusedError, TransientError

_TRANSIENT = ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's error codes that say nothing against the request."""


class RegistryError(RefusedError):
    """The registry holds something that contradicts what is asked, or cannot be used as it is set up; repeating does not help."""


class RegistryUnreachable(TransientError):
    """The registry's server, database or artifact store does not answer."""


def shown(uri: str) -> str:
    """Return ``uri`` without the password in it."""
    head, at, tail = uri.rpartition("@")
    return f"{head.split('://')[0]}://…@{tail}" if at else uri


def unreachable(uri: str, error: Exception) -> RegistryUnreachable:
    """Return the error that says that nothing answers at ``uri``."""
    return RegistryUnreachable(
        f"the model registry at {shown(uri)} must answer, it does not ({first_line(error)}): start it or correct the setting"
    )


def unusable(uri: str, error: Exception) -> RegistryError:
    """Return the error that says that the registry at ``uri`` is set up wrongly."""
    return RegistryError(
        f"the model registry at {shown(uri)} must be usable, it is not ({first_line(error)}): correct the setting or mend it"
    )


def first_line(error: Exception) -> str:
    """Return the first line of what ``error`` says, or its name when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def of_mlflow(uri: str, error: Any) -> RegistryError | RegistryUnreachable:
    """Return what an MlflowException means."""
    from sqlalchemy.exc import SQLAlchemyError

    text = first_line(error)
    if "readonly database" in text or "read-only" in text.lower():
        return RegistryError(
            f"the model registry at {shown(uri)} must be writable, it is not ({text}): give write permission or choose another"
        )
    if isinstance(error.__cause__, SQLAlchemyError) or error.error_code in _TRANSIENT:
        return RegistryUnreachable(f"the model registry at {shown(uri)} must answer, it failed ({text}): it may succeed later")
    return RegistryError(f"the model registry refuses: {text}")


def of_artifact_store(error: Exception) -> RegistryError | RegistryUnreachable:
    """Return what an error of S3 means. An answer 4xx of S3 will be given again; everything else may pass. boto3 hides the answer in what it raised from."""
    answer = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if 400 <= status < 500 and status not in (408, 429):
        return RegistryError(
            f"the artifact store must take and give the hand-off, it refuses ({first_line(error)}): check bucket and credentials"
        )
    return RegistryUnreachable(f"the artifact store must answer, it does not ({first_line(error)}): start it or correct the setting")
