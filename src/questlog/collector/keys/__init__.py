"""Write keys: who may send. A key is shown once; what is kept is its SHA-256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "qlk_"
_RANDOM_BYTES = 32
_BODY = 43  # of base64 without its padding
LENGTH = len(PREFIX) + _BODY + 8
SIGNED_SECONDS = 300
"""How far a signature's time may be from ours."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of one write key. `rate` is events per second, 0 for no limit; times are milliseconds."""

    number: int
    id: str
    source: str
    digest: bytes
    origins: tuple[str, ...] = ()
    rate: float = 0.0
    secret: bytes = b""
    created_ms: int = 0
    ends_ms: int | None = None

    def is_over(self, now_ms: int) -> bool:
        """Return whether it was revoked, or replaced long enough ago."""
        return self.ends_ms is not None and now_ms >= self.ends_ms

    def allows(self, origin: str) -> bool:
        """Return whether a page of *origin* may use it; a key without a list can be used by any."""
        return not self.origins or origin in self.origins


def new_key() -> str:
    """Return a new write key: 256 random bits between a prefix that people recognise and a checksum."""
    body = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).rstrip(b"=").decode()
    return f"{PREFIX}{body}{_checksum(body)}"


def is_whole(text: str) -> bool:
    """Return whether *text* can be a key at all: a key that was cut or mistyped is told apart from a wrong one."""
    if len(text) != LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    return _checksum(text[len(PREFIX) : -8]) == text[-8:]


def digest_of(text: str) -> bytes:
    """Return what is kept of a key: it has 256 random bits, so nothing slower than SHA-256 is needed."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def sign(secret: bytes, seconds: str, body: bytes) -> str:
    """Return the signature of a body at a time: HMAC-SHA256 of `<seconds>.<body>`, in hex."""
    return hmac.new(secret, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
