"""The tests' own certificate authority: the machine does not know it, so a setting must name it."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files: the authority's certificate; a server's key with its chain, as PEM and as Java's key store; a client's."""

    authority: Path
    server: Path
    store: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path, password: str = "changeit") -> Certificates:
    """Write a new authority, a server on 127.0.0.1 and a client; *password* locks the key store."""
    now = dt.datetime.now(dt.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("an authority", "a server", "a client")
    ]

    def certificate(which: int, *extensions: x509.ExtensionType) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            names[0], names[which], keys[which].public_key(), x509.random_serial_number(),
            now - dt.timedelta(days=1), now + dt.timedelta(days=2),
        )  # fmt: skip
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(keys[0], hashes.SHA256())

    def pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(Encoding.PEM)

    authority = certificate(0, x509.BasicConstraints(ca=True, path_length=None))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = certificate(1, address)
    made = Certificates(*(folder / name for name in ("ca.pem", "server.pem", "server.p12", "client.pem", "client.key")))
    key = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made.server.write_bytes(key + pem(server) + pem(authority))
    made.authority.write_bytes(pem(authority))
    locked = BestAvailableEncryption(password.encode())
    made.client.write_bytes(pem(certificate(2)))
    made.client_key.write_bytes(keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.store.write_bytes(pkcs12.serialize_key_and_certificates(b"server", keys[1], server, [authority], locked))
    return made
