"""A certificate authority for tests: servers' and callers' certificates as PEM files, made in milliseconds (elliptic curves)."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lab")])


class Authority:
    """Signs certificates into ``folder``."""

    def __init__(self, folder: Path, name="Lab CA"):
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(_name(name), self._key, ca=True)
        self.path = folder / f"{name.replace(' ', '-').lower()}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, *sans, days=(-1, 30), password=None):
        """Return (certificate, key) files; ``sans`` are general names of the cryptography library, or texts for DNS names."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(_name(name), key, sans=[x509.DNSName(san) if isinstance(san, str) else san for san in sans], days=days)
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher))
        return certificate, private

    def server(self, name="gateway"):
        """Return (certificate, key) of a server on this machine."""
        return self.issue(name, "localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def _sign(self, subject, key, *, ca=False, sans=(), days=(-1, 30)):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if ca else self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(sans)), critical=False)
        return builder.sign(self._key, hashes.SHA256())
