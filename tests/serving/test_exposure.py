"""Where a gateway may listen."""

from pathlib import Path

import pytest

from serving import exposure
from serving.errors import SettingsError
from serving.options import GatewayOptions

FILE = Path("x")
FULL = GatewayOptions(access=FILE, tls_certificate=FILE, tls_key=FILE)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "[::1]"])
def test_this_machine_needs_nothing(host):
    exposure.check(host, GatewayOptions())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.25.20.7", "gateway.lab", "", "fe80::1%eth0", "127.0.0.1.lab.example"])
def test_beyond_this_machine_needs_an_access_file_and_a_certificate(host):
    exposure.check(host, FULL)
    with pytest.raises(SettingsError, match=r"gateway_access_file.*and without.*gateway_tls_certificate.*docs/access.md.*127.0.0.1"):
        exposure.check(host, GatewayOptions())
    with pytest.raises(SettingsError, match="gateway_tls_certificate") as without_tls:
        exposure.check(host, GatewayOptions(access=FILE))
    with pytest.raises(SettingsError, match="gateway_access_file") as without_access:
        exposure.check(host, GatewayOptions(tls_certificate=FILE, tls_key=FILE))
    assert "access_file" not in str(without_tls.value)
    assert "certificate and" not in str(without_access.value)


def test_files_that_a_gateway_could_not_use_are_said_before_anything_starts(tmp_path):
    exposure.check_files(GatewayOptions())
    with pytest.raises(SettingsError, match="readable"):
        exposure.check_files(GatewayOptions(access=tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match=r"PEM pair|must be files"):
        exposure.check_files(GatewayOptions(tls_certificate=tmp_path / "none.pem", tls_key=tmp_path / "none.key"))
