"""May the gateway listen there? Beyond this machine only with an access file and a certificate."""

import ipaddress
from collections.abc import Mapping

from serving import access_document
from serving.errors import SettingsError
from serving.options import GatewayOptions
from serving.tls import ServerTls


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


def check_files(options: GatewayOptions) -> None:
    """Return when a gateway could start with the access file and the certificates of ``options``. Raises SettingsError.

    The supervisor asks before it starts anything: a person at a terminal hears at once what a gateway would only say in its log.
    """
    if options.access is not None:
        access_document.read(options.access)
    if options.tls_certificate is not None and options.tls_key is not None:
        ServerTls(certificate=options.tls_certificate, key=options.tls_key, client_ca=options.tls_client_ca)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``. A name that is no address is taken for reachable, ``localhost`` aside."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
