"""May the gateway listen there? Beyond this machine only with an access file and a certificate."""

import ipaddress
from collections.abc import Mapping

from serving.errors import SettingsError
from serving.options import GatewayOptions


def check(host: str, options: GatewayOptions) -> None:
    """Return when a gateway with ``options`` may listen on ``host``. Raises SettingsError that says what to set."""
    if is_loopback(host):
        return
    needed: Mapping[str, bool] = {
        "an access file (gateway_access_file; `firstlight access add` makes one)": options.access is None,
        "a certificate and its key (gateway_tls_certificate, gateway_tls_key)": options.tls_certificate is None,
    }
    missing = [what for what, is_missing in needed.items() if is_missing]
    if missing:
        raise SettingsError(
            f"a gateway that listens beyond this machine must know its callers and speak TLS, found {host} without {' and without '.join(missing)}: "
            f"set them (docs/access.md), or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``. A name that is no address is taken for reachable, ``localhost`` aside."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
