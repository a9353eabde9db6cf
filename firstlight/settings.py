"""Where things are: every setting of one environment, in one place, read once.

A setting comes from, first wins: an environment variable ``FIRSTLIGHT_<NAME>``, the environment's settings file
(``deployments/settings/<environment>.yaml``, or the file named by ``FIRSTLIGHT_SETTINGS``), the default below. The embedded
default needs neither file nor variable. This module is the only reader of environment variables, and the only place where the
libraries' telemetry is switched off: the lab has no network to send it to.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from firstlight.errors import RefusedError

ROOT = Path(__file__).resolve().parent.parent

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment of every process we start: no telemetry, no pickle."""


PRIVATE = ("FIRSTLIGHT_MODEL_KEY_PEM", "FIRSTLIGHT_MODEL_KEY_PKCS11")
"""Variables that hold a private key or a token's PIN: only a process that signs gets them."""


class Settings(BaseSettings):
    """All settings of one environment. Paths are absolute after construction; relative ones start at the working directory."""

    model_config = SettingsConfigDict(env_prefix="FIRSTLIGHT_", extra="forbid", frozen=True)

    environment: str = Field(default="local", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    """Name of the environment: chooses the settings file and the policy file, and keeps releases of environments apart."""

    state_dir: Path = Path(".firstlight")
    """Folder that holds everything this environment remembers on this machine. `make clean-state` removes it."""

    model: str = Field(default="desi-vae", pattern=r"^[a-z][a-z0-9-]{0,60}$")
    """Registered name of the model that commands mean when none is named."""

    spectra: str | None = None
    """Folder, file or s3:// prefix with the spectra of the night that the nightly flow reads; None means a synthetic sky."""

    trainer: str = "Nightly pipeline <nightly-pipeline@firstlight.example>"
    """Who hands over what the nightly flow trained, as `Name <mail>`; an approver must be somebody else."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training rows in the nightly flow; None leaves the recipe's default."""

    policy_file: Path | None = None
    """Policy of this environment; None means deployments/policies/<environment>.yaml."""

    approvers_file: Path | None = None
    """Who may sign, with which keys and roles; None means approvers.yaml in the state folder."""

    approvers_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """The sha256 that file must have before anybody's signature is judged by it; None believes whoever can write the file."""

    pipeline_key: Path | None = None
    """SSH private key with which the release flow signs the versions it makes servable; None means keys/pipeline in the state folder, made once."""

    trusted_keys: Path | None = None
    """Public halves of the pipeline keys that model servers trust, one a line; None means the public half of `pipeline_key`."""

    model_key: Path | None = None
    """Private key (PEM, P-256) with which model folders are signed at registration; None means keys/model-signing in the state folder, made once."""

    model_key_pem: str | None = Field(default=None, repr=False)
    """The text of that key instead; give it as FIRSTLIGHT_MODEL_KEY_PEM, never in the file."""

    model_key_pkcs11: str | None = Field(default=None, repr=False)
    """PKCS#11 URI of that key in a hardware module instead; needs the extra `pkcs11`."""

    model_keys_file: Path | None = None
    """Keys whose signatures of models are believed, and until when; None means keys/model-keys.yaml in the state folder."""

    ledger_key_file: Path | None = None
    """Secrets that seal the ledger, one a line, the newest last; None means keys/ledger in the state folder, made once. Every machine needs the same."""

    ledger_anchors: str | None = None
    """Folder or s3:// prefix, better on another machine, for the ledger's signed heads; None means anchors in the state folder."""

    ledger_anchor_days: int = Field(default=3650, ge=1)
    """Days for which an anchor is locked in a bucket that has object lock and no retention of its own."""

    store_url: str | None = None
    """SQLAlchemy URL of desired state, champions and releases; None means SQLite in the state folder."""

    mlflow_tracking_uri: str | None = None
    """MLflow server or database; None means SQLite in the state folder. PostgreSQL: postgresql+psycopg://... or a server's http URL."""

    mlflow_artifacts: str | None = None
    """Where MLflow keeps artifacts when the tracking URI is a database: a folder or s3://bucket/prefix; None means the state folder."""

    prefect_api_url: str | None = None
    """Address of a Prefect server's API, such as http://prefect.lab:4200/api; None means one of our own on SQLite in the state folder."""

    prefect_port: int = Field(default=4200, ge=0, le=65535)
    """Loopback port of our own Prefect server; 0 takes a free one."""

    mlflow_port: int = Field(default=5000, ge=0, le=65535)
    """Loopback port of the MLflow UI under `make up`; 0 takes a free one."""

    reports_port: int = Field(default=8090, ge=0, le=65535)
    """Loopback port at which `make up` shows the dossiers to a browser; 0 takes a free one."""

    gateway_port: int = Field(default=8080, ge=0, le=65535)
    """Port at which people and programs send spectra; 0 takes a free one."""

    gateway_host: str = "127.0.0.1"
    """Address the gateway listens on. Any other than loopback needs `access_file` and a certificate."""

    gateway_access_file: Path | None = None
    """Who may ask what: API keys (hashed), OIDC issuers, roles, models, rates; None means access.yaml in the state folder when it is there."""

    gateway_tls_certificate: Path | None = None
    """PEM certificate chain of the gateway; None means plain HTTP on loopback."""

    gateway_tls_key: Path | None = None
    """PEM private key of that certificate."""

    gateway_tls_client_ca: Path | None = None
    """PEM certificates that sign callers' certificates; set, every caller must show one (mTLS)."""

    gateway_body_mb: int = Field(default=64, ge=1)
    """Largest request body that the gateway and the model servers take, in megabytes."""

    serving_workers: int | None = Field(default=None, ge=1, le=64)
    """Processes of one model server that compute, one thread each; None means one for each core."""

    serving_replicas: int = Field(default=1, ge=1, le=16)
    """Model servers of each version, each with `serving_workers` of its own; with two, the loss of one fails no request."""

    serving_orphan_seconds: float = Field(default=120.0, ge=0, allow_inf_nan=False)
    """Seconds that gateway and model servers go on answering when their supervisor was killed; the next one takes them over. 0: not at all."""

    gateway_sticky: str | None = Field(default=None, pattern=r"^(client|header:[a-z0-9-]{1,60})$")
    """Keep a caller on one side of a canary: `client`, or `header:x-user-id` by the value of a header; None spreads every request."""

    gateway_shadow_percent: int = Field(default=0, ge=0, le=100)
    """Share of live requests that are also sent to the other version while a canary is out; its answers are compared and thrown away."""

    serving_cache_mb: int = Field(default=64, ge=0)
    """Megabytes of answers that a model server remembers by the digest of their inputs; 0 switches the cache off."""

    inference_log_uri: str | None = None
    """Folder or s3:// prefix of the inference log; None means inference-log in the state folder."""

    inference_log_sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged."""

    otlp_endpoint: str | None = None
    """OpenTelemetry collector (OTLP over HTTP) that gets the traces of gateway and model servers; None traces nothing."""

    s3_endpoint_url: str | None = None
    """S3-compatible endpoint (MinIO); None means Amazon's."""

    s3_path_style: bool = True
    """Address buckets by path, as MinIO wants, not by host name."""

    s3_ca_bundle: Path | None = None
    """Certificates that vouch for the S3 endpoint; None means the system's."""

    s3_access_key: str | None = None
    """S3 access key; None means the usual AWS variables and files."""

    s3_secret_key: str | None = None
    """S3 secret key; give it as FIRSTLIGHT_S3_SECRET_KEY, never in the file."""

    s3_region: str | None = None
    """S3 region; None means us-east-1, which MinIO ignores."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let environment variables win over the settings file, whose values arrive as init arguments."""
        return env_settings, init_settings

    @property
    def state(self) -> Path:
        """The state folder, absolute."""
        return self.state_dir.expanduser().absolute()

    @property
    def policy_path(self) -> Path:
        """The policy file of this environment, absolute."""
        return (self.policy_file or ROOT / "deployments" / "policies" / f"{self.environment}.yaml").absolute()

    @property
    def approvers_path(self) -> Path:
        """The approvers file, absolute."""
        return (self.approvers_file or self.state / "approvers.yaml").absolute()

    @property
    def pipeline_key_path(self) -> Path:
        """The pipeline's private key, absolute."""
        return (self.pipeline_key or self.state / "keys" / "pipeline").expanduser().absolute()

    @property
    def trusted_keys_path(self) -> Path:
        """The file of trusted pipeline keys, absolute."""
        return (self.trusted_keys or self.pipeline_key_path.with_name(self.pipeline_key_path.name + ".pub")).expanduser().absolute()

    @property
    def model_key_path(self) -> Path:
        """The private key that signs models, where it is a file; absolute."""
        return (self.model_key or self.state / "keys" / "model-signing").expanduser().absolute()

    @property
    def model_keys_path(self) -> Path:
        """The file of trusted model keys, absolute."""
        return (self.model_keys_file or self.state / "keys" / "model-keys.yaml").expanduser().absolute()

    @property
    def ledger_key_path(self) -> Path:
        """The file of the ledger's keys, absolute."""
        return (self.ledger_key_file or self.state / "keys" / "ledger").expanduser().absolute()

    @property
    def anchors(self) -> str:
        """Where the ledger's signed heads are kept: a folder, absolute, or an s3:// prefix."""
        if self.ledger_anchors is None:
            return str(self.state / "anchors")
        return self.ledger_anchors if "://" in self.ledger_anchors else str(Path(self.ledger_anchors).expanduser().absolute())

    @property
    def store(self) -> str:
        """URL of the store of desired state."""
        return self.store_url or f"sqlite:///{self.state / 'state.db'}"

    @property
    def mlflow_ui_url(self) -> str:
        """Address at which people find MLflow's UI, for links."""
        if self.mlflow_tracking_uri and self.mlflow_tracking_uri.startswith("http"):
            return self.mlflow_tracking_uri
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def reports_url(self) -> str:
        """Address at which people find the dossiers under `make up`, for links."""
        return f"http://127.0.0.1:{self.reports_port}"

    @property
    def prefect_ui_url(self) -> str:
        """Address at which people find the Prefect UI, for links."""
        if self.prefect_api_url:
            return self.prefect_api_url.removesuffix("/api")
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def access_path(self) -> Path | None:
        """The gateway's access file, absolute; None when there is none."""
        if self.gateway_access_file is not None:
            return self.gateway_access_file.expanduser().absolute()
        found = self.state / "access.yaml"
        return found if found.is_file() else None

    @property
    def inference_log(self) -> str:
        """Where the inference log is written and read: a folder, absolute, or an s3:// prefix."""
        if self.inference_log_uri is None:
            return str(self.state / "inference-log")
        return self.inference_log_uri if "://" in self.inference_log_uri else str(Path(self.inference_log_uri).expanduser().absolute())

    @property
    def inference_log_spool(self) -> Path:
        """Folder in which parts of the inference log wait for an object store."""
        return self.state / "inference-log-spool"

    @property
    def compiled(self) -> Path:
        """Folder of compiled models, by digest."""
        return self.state / "compiled"

    @property
    def tracking_uri(self) -> str:
        """URI of MLflow's tracking store."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str:
        """Where MLflow keeps artifacts."""
        return self.mlflow_artifacts or str(self.state / "mlartifacts")

    def folder(self, *parts: str) -> Path:
        """Return a folder below the state folder, made when absent. Raises RefusedError when it cannot be written."""
        path = self.state.joinpath(*parts)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RefusedError(
                f"the state folder must be writable, {path} is not ({error.strerror}): choose another with FIRSTLIGHT_STATE_DIR"
            ) from None
        return path


def load(**overrides: Any) -> Settings:
    """Read the settings of the environment named by FIRSTLIGHT_ENVIRONMENT. Raises RefusedError with every wrong value named."""
    environment = str(overrides.get("environment") or os.environ.get("FIRSTLIGHT_ENVIRONMENT", "local"))
    named = os.environ.get("FIRSTLIGHT_SETTINGS")
    path = Path(named) if named else ROOT / "deployments" / "settings" / f"{environment}.yaml"
    try:
        return Settings(**{**_read(path, required=named is not None), "environment": environment, **overrides})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RefusedError(f"settings must be valid, found {wrong}: mend {path} or the FIRSTLIGHT_ variable of that name") from None


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise RefusedError(f"FIRSTLIGHT_SETTINGS must name a file, {str(path)!r} is none: correct it or unset the variable")
        return {}
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise RefusedError(f"the settings file must be YAML, {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise RefusedError(f"the settings file must be a mapping of names to values, {path} holds a {type(values).__name__}")
    return values


@lru_cache(maxsize=1)
def current() -> Settings:
    """Return the settings of this process, read once; libraries that read variables of their own are told by them."""
    settings = load()
    quieten()
    os.environ.update(_for_libraries(settings))
    return settings


def _for_libraries(settings: Settings) -> dict[str, str]:
    """Return the variables by which S3 clients learn what our settings say: MLflow's own one, and those of the processes we start."""
    told = {
        "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint_url,
        "AWS_CA_BUNDLE": settings.s3_ca_bundle and str(settings.s3_ca_bundle),
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key,
        "AWS_DEFAULT_REGION": settings.s3_region,
    }
    return {name: value for name, value in told.items() if value}


def environment_for_children(settings: Settings) -> dict[str, str]:
    """Return the environment variables with which every process we start runs: the same settings, quiet libraries."""
    return {
        **os.environ,
        **_for_libraries(settings),
        **QUIET,
        "FIRSTLIGHT_STATE_DIR": str(settings.state),
        "FIRSTLIGHT_ENVIRONMENT": settings.environment,
    }


def environment_without_keys(settings: Settings) -> dict[str, str]:
    """Return :func:`environment_for_children` for a process that never signs."""
    return {name: value for name, value in environment_for_children(settings).items() if name not in PRIVATE}


def quieten() -> None:
    """Switch telemetry off in this process; called before any library that would send some is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
