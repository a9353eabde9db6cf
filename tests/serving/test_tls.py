"""Real TLS: which versions and callers get through, what a certificate says of its holder, and certificates that are renewed."""

import asyncio
import gc
import ssl
import threading
import warnings

import pytest
from cryptography import x509

from serving import peer as peers
from serving.errors import SettingsError
from serving.tls import ServerTls
from tests.serving.certificates import Authority


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


class Echo(asyncio.Protocol):
    """Tells every caller, one a line, what is known of it."""

    def connection_made(self, transport):
        peer = peers.of(transport)
        transport.write("\n".join([peer.address, *sorted(peer.certificate)]).encode())
        transport.close()


class Listener:
    """A TLS server of our context in a loop of its own."""

    def __init__(self, tls):
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(self._loop.create_server(Echo, "127.0.0.1", 0, ssl=tls.context))
        self.port = self._server.sockets[0].getsockname()[1]
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self):
        self._loop.call_soon_threadsafe(self._server.close)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def listen():
    made = []

    def start(tls):
        made.append(Listener(tls))
        return made[-1].port

    yield start
    for listener in made:
        listener.close()
    made.clear()
    # asyncio leaves the socket of a handshake that failed to the garbage collector, who would complain in some later test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def caller(authority, *, pair=None, most=None, ciphers=None):
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair:
        context.load_cert_chain(*pair)
    if most:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = most
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    return context


def call(port, context):
    """Return the lines that the server told us, and the connection's protocol."""
    import socket

    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        told = b""
        while piece := secure.recv(4096):
            told += piece
        if not told:
            raise ConnectionError("the server said nothing")
        return told.decode().split("\n"), secure.version(), secure.cipher()[0], secure.getpeercert()


def test_a_certificate_tells_who_is_at_the_other_end(authority, listen):
    certificate, key = authority.server()
    port = listen(ServerTls(certificate=certificate, key=key, client_ca=authority.path))
    spiffe, mail = x509.UniformResourceIdentifier("spiffe://lab/portal"), x509.RFC822Name("portal@lab.example")
    told, version, *_ = call(port, caller(authority, pair=authority.issue("portal", "Portal.Lab.example", spiffe, mail)))
    assert told[0] == "127.0.0.1"
    assert told[1:4] == ["dns:portal.lab.example", "email:portal@lab.example", next(line for line in told if line.startswith("sha256:"))]
    assert told[4:] == ["subject:O=Lab,CN=portal", "uri:spiffe://lab/portal"]
    assert version == "TLSv1.3"


def test_without_a_client_ca_nobody_is_asked_for_a_certificate(authority, listen):
    certificate, key = authority.server()
    port = listen(ServerTls(certificate=certificate, key=key))
    assert call(port, caller(authority, pair=authority.issue("portal", "portal.lab")))[0] == ["127.0.0.1"]


def test_callers_without_a_certificate_of_our_ca_never_reach_us(authority, listen, tmp_path):
    certificate, key = authority.server()
    port = listen(ServerTls(certificate=certificate, key=key, client_ca=authority.path))
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    pairs = {
        "none": None,
        "of another CA": stranger.issue("portal", "portal.lab"),
        "expired": authority.issue("old", "portal.lab", days=(-3, -1)),
        "not yet": authority.issue("early", "portal.lab", days=(1, 3)),
    }
    for pair in pairs.values():
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(port, caller(authority, pair=pair))


def test_a_resumed_session_is_no_way_around_the_certificate(authority):
    certificate, key = authority.server()
    tls = ServerTls(certificate=certificate, key=key, client_ca=authority.path)
    assert tls.context.num_tickets == 0
    assert tls.context.options & ssl.OP_NO_TICKET


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_not_spoken(authority, listen, most):
    certificate, key = authority.server()
    port = listen(ServerTls(certificate=certificate, key=key))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        call(port, caller(authority, most=most, ciphers=None))


def test_tls_1_2_is_spoken_with_forward_secrecy_and_authenticated_ciphers_only(authority, listen):
    certificate, key = authority.server()
    port = listen(ServerTls(certificate=certificate, key=key))
    _, version, cipher, _ = call(port, caller(authority, ciphers="ECDHE+AESGCM"))
    assert (version, cipher.startswith("ECDHE-")) == ("TLSv1.2", True)
    for weak in ("AES128-SHA", "ECDHE+AES+SHA1", "AES128-GCM-SHA256"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(port, caller(authority, ciphers=weak))
    listed = {entry["name"] for entry in ServerTls(certificate=certificate, key=key).context.get_ciphers()}
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "POLY1305" in name) for name in listed)


def test_a_renewed_certificate_is_taken_over_and_half_of_one_is_not(authority, listen, caplog):
    certificate, key = authority.server()
    tls = ServerTls(certificate=certificate, key=key)
    port = listen(tls)
    before, old_key = call(port, caller(authority))[3]["serialNumber"], key.read_bytes()
    assert not tls.refresh()
    # When only the certificate is new, then the old pair stays
    authority.server()
    new_key = key.read_bytes()
    key.write_bytes(old_key)
    assert not tls.refresh()
    assert call(port, caller(authority))[3]["serialNumber"] == before
    assert "cannot be used" in caplog.text
    # When both are there, then new connections see the new one
    key.write_bytes(new_key)
    assert tls.refresh()
    assert call(port, caller(authority))[3]["serialNumber"] != before


def test_what_is_wrong_with_the_files_is_a_sentence(authority, tmp_path):
    certificate, key = authority.server()
    _, other = authority.issue("other", "other.lab")
    _, locked = authority.issue("locked", "locked.lab", password=b"secret")
    (tmp_path / "text.pem").write_text("no certificate")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    for pair, said in (
        ((tmp_path / "none.pem", key), "see docs/access.md"),
        ((certificate, tmp_path / "none.key"), "see docs/access.md"),
        ((tmp_path / "text.pem", key), "PEM pair"),
        ((certificate, other), "PEM pair"),
        ((certificate, locked), "no passphrase"),
        ((certificate, open_key), "chmod o-r"),
    ):
        with pytest.raises(SettingsError, match=said):
            ServerTls(certificate=pair[0], key=pair[1])
    for ca in (tmp_path / "none.pem", tmp_path / "text.pem"):
        with pytest.raises(SettingsError, match="callers' CA"):
            ServerTls(certificate=certificate, key=key, client_ca=ca)


def test_a_certificate_that_cannot_be_read_whole_is_known_by_its_bytes():
    (said,) = peers.identities(b"no certificate")
    assert said.startswith("sha256:")


class Transport:
    """As much of a transport as is asked for a peer without TLS."""

    def __init__(self, name):
        self._name = name

    def get_extra_info(self, what):
        return self._name if what == "peername" else None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_peer_without_a_certificate_is_an_address(name, address):
    peer = peers.of(Transport(name))
    assert (peer.address, peer.certificate) == (address, frozenset())
