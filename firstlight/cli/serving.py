"""``firstlight serve`` and what the other commands need to know of the supervisor."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from firstlight.errors import RefusedError
from firstlight.settings import Settings, environment_without_keys
from governance.attestation import ensure_key

_FRESH_SECONDS = 5.0


def is_supervised(settings: Settings, model: str | None = None) -> bool:
    """Return whether a supervisor of this environment has reported in the last seconds."""
    from tasks.doors import store

    with store(settings) as records:
        seen = records.observed(settings.environment, model or settings.model)
    return seen is not None and abs(time.time() - seen.heartbeat) < _FRESH_SECONDS


def supervisor_arguments(settings: Settings, *, port: int, models: Sequence[str] = ()) -> list[str]:
    """Return the arguments, after the interpreter, of the supervisor's process for ``models`` (the settings' one when left out)."""
    named = [word for model in models or (settings.model,) for word in ("--model", model)]
    return [
        *("-m", "serving", "supervise", "--store", settings.store, "--state", str(settings.state)),
        *("--environment", settings.environment, *named, "--port", str(port)),
        *("--host", settings.gateway_host, "--options", _options(settings), "--ledger-keys", str(settings.ledger_key_path)),
    ]


def _options(settings: Settings) -> str:
    """Return how the online processes behave here, as ``serving.options`` reads it."""
    return json.dumps(
        {
            "model": {
                "workers": settings.serving_workers,
                "replicas": settings.serving_replicas,
                "body_mb": settings.gateway_body_mb,
                "cache_mb": settings.serving_cache_mb,
                "compiled": str(settings.compiled),
                "trusted_keys": str(_trusted_keys(settings)),
                "model_keys": str(_model_keys(settings)),
                "inference_log": settings.inference_log,
                "inference_log_sample": settings.inference_log_sample,
                "inference_log_spool": str(settings.inference_log_spool),
            },
            "gateway": {
                "access": _text(settings.access_path),
                "tls_certificate": _text(settings.gateway_tls_certificate),
                "tls_key": _text(settings.gateway_tls_key),
                "tls_client_ca": _text(settings.gateway_tls_client_ca),
                "body_mb": settings.gateway_body_mb,
                "sticky": settings.gateway_sticky,
                "shadow_percent": settings.gateway_shadow_percent,
            },
            # The keys of the object store are not here, where every process list shows them: AWS_ variables carry them.
            "s3": {
                "endpoint_url": settings.s3_endpoint_url,
                "path_style": settings.s3_path_style,
                "ca_bundle": _text(settings.s3_ca_bundle),
                "region": settings.s3_region,
            },
            "environment": settings.environment,
            "orphan_seconds": settings.serving_orphan_seconds,
            "otlp_endpoint": settings.otlp_endpoint,
        }
    )


def _trusted_keys(settings: Settings) -> Path:
    """Return the file of trusted keys; that of our own pipeline is made when it is not there yet."""
    if settings.trusted_keys is None:
        ensure_key(settings.pipeline_key_path)
    return settings.trusted_keys_path


def _model_keys(settings: Settings) -> Path:
    """Return the file of keys that may sign models; our own is made when it is not there yet."""
    from tasks import vouching

    vouching.ensure_key(settings)
    return settings.model_keys_path


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def serve(settings: Settings, *, port: int | None, models: Sequence[str]) -> int:
    """Run the supervisor of ``models`` (the settings' one when left out) in the foreground until it ends or Ctrl-C; return its exit code."""
    taken = [model for model in models or (settings.model,) if is_supervised(settings, model)]
    if taken:
        raise RefusedError(
            f"one supervisor at a time may serve a model, one already serves {' and '.join(taken)} in {settings.environment}: stop it first"
        )
    arguments = supervisor_arguments(settings, port=settings.gateway_port if port is None else port, models=models)
    child = subprocess.Popen([sys.executable, *arguments], env=environment_without_keys(settings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.kill(child.pid, signal.SIGTERM))
    return child.wait()
