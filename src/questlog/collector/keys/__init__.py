"""Write keys, which authorize senders. A key is shown once; only its SHA-256 is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass

PREFIX = "qlk_"
_RANDOM_BYTES = 32
_BODY = 43  # characters of base64 without padding
LENGTH = len(PREFIX) + _BODY + 8
SIGNED_SECONDS = 300
"""How far a signature's time may differ from the collector's clock."""


@dataclass(frozen=True, slots=True)
class Key:
    """A write key without its text. `rate` is events per second, 0 for no limit; times are in milliseconds."""

    number: int
    id: str
    source: str
    digest: bytes
    origins: tuple[str, ...] = ()
    rate: float = 0.0
    secret: bytes = b""
    created_ms: int = 0
    ends_ms: int | None = None

    def has_ended(self, now_ms: int) -> bool:
        """Return whether the key has been revoked, or was replaced and its grace period is over."""
        return self.ends_ms is not None and now_ms >= self.ends_ms

    def allows(self, origin: str) -> bool:
        """Return whether a page of *origin* may use the key; without a list of origins, any may."""
        return not self.origins or origin in self.origins


def new_key() -> str:
    """Return a new write key: a recognisable prefix, 256 random bits and a checksum."""
    body = base64.urlsafe_b64encode(secrets.token_bytes(_RANDOM_BYTES)).rstrip(b"=").decode()
    return f"{PREFIX}{body}{_checksum(body)}"


def is_well_formed(text: str) -> bool:
    """Return whether *text* is well-formed: distinguishes a truncated or mistyped key from an unknown one."""
    if len(text) != LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    return _checksum(text[len(PREFIX) : -8]) == text[-8:]


def digest_of(text: str) -> bytes:
    """Return the digest stored for a key. A key has 256 random bits, so SHA-256 is slow enough."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def sign(secret: bytes, seconds: str, body: bytes) -> str:
    """Sign a body at a time: HMAC-SHA256 of `<seconds>.<body>`, in hex."""
    return hmac.new(secret, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
