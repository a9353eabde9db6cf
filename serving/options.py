"""How the online processes behave on this machine: one value that the supervisor is given and hands on to every process it starts."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import SettingsError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelOptions(_Part):
    """One model server."""

    workers: int | None = Field(default=None, ge=1, le=64)
    """Processes that compute, each with one thread; None is one for each core this process may use, and one for a GPU."""
    queue_requests: int = Field(default=256, ge=1)
    """Requests that may wait; beyond it the answer is 503 with Retry-After."""
    queue_mb: int = Field(default=256, ge=1)
    """Megabytes of inputs that may be held at once, waiting, arriving and being computed."""
    body_mb: int = Field(default=64, ge=1)
    """Largest request body in megabytes: 64 holds 1,000 spectra of flux and ivar."""
    cache_mb: int = Field(default=64, ge=0)
    """Megabytes of answers that are remembered by the digest of their inputs; 0 remembers nothing."""
    max_wait_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Longest that a request waits for its answer when it names no deadline of its own."""
    compiled: Path | None = None
    """Folder of compiled models, by digest; None: only the model as it was handed over can be run."""
    inference_log: str | None = None
    """Folder or s3:// prefix for the inference log; None writes none."""
    inference_log_sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged."""
    flush_seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Rows of at most this many seconds are lost on kill -9."""


class GatewayOptions(_Part):
    """The gateway."""

    access: Path | None = None
    """Who may ask what (docs/access.md); None lets everybody on this machine ask, and refuses any address but loopback."""
    tls_certificate: Path | None = None
    """PEM certificate chain; with it and its key the public port speaks TLS."""
    tls_key: Path | None = None
    """PEM private key of ``tls_certificate``."""
    tls_client_ca: Path | None = None
    """PEM certificates; with them every caller must show a certificate that one of these signed (mTLS)."""
    body_mb: int = Field(default=64, ge=1)
    """Largest request body in megabytes."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key: callers show certificates over TLS only")
        return self


class Options(_Part):
    """Both, and what they share."""

    model: ModelOptions = ModelOptions()
    gateway: GatewayOptions = GatewayOptions()
    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318; None traces nothing."""


def parse(text: str) -> Options:
    """Return the options written in ``text`` (JSON). Raises SettingsError that names every wrong field."""
    try:
        return Options.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False))
        raise SettingsError(f"the options of a serving process must be valid, found {wrong}: mend the setting of that name") from None
