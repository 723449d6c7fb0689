"""Authorizes requests: finds the write key, checks origin, signature and rate. No response ever repeats a key."""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import time
from pathlib import Path
from urllib.parse import urlsplit

from questlog.collector.formats import query_of
from questlog.collector.http import Request, Response, refuse
from questlog.collector.keys import SIGNED_SECONDS, Key, digest_of, is_well_formed, sign
from questlog.collector.keys.rate import Rates
from questlog.collector.keys.store import UsedSignatures, open_keys

KEYS_SECONDS = 0.5
"""How far a worker's keys may be behind the key store."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SOURCE = b"x-questlog-source"
"""The header that names the source of a request's key; a plan may keep it as a column. Clients cannot set it."""
_MAKE = "create a key with questlog key create SOURCE; send it as Authorization: Bearer KEY, or as X-Write-Key"
_CHALLENGE = b'www-authenticate: Bearer realm="questlog"'


class Authenticator:
    """Authorizes requests by a project's keys. While there are none, clients on this machine may send."""

    def __init__(self, data: Path, rates: Rates, *, open_without_keys: bool) -> None:
        self._store, self._rates = open_keys(data), rates
        self._open = open_without_keys  # the collector listens on localhost only
        self._used_path = data / "signatures.db"
        self._used: UsedSignatures | None = None
        self._keys: dict[bytes, Key] | None = None
        self._version: object = None
        self._keys_expire = 0.0

    # -- once the headers are complete -----------------------------------------------------------

    def authorize(self, request: Request) -> Response | None:
        """Attach the request's key, or return a refusal.  1 key  2 origin  3 signature time  4 rate."""
        request.headers.pop(SOURCE, None)
        keys = self._current_keys()
        if not keys and self._open:
            return self._authorize_local(request)
        text = _sent_key(request)
        if not text:
            return _unauthorized("this collector requires a write key", _MAKE)
        if not is_well_formed(text):
            return _unauthorized("the write key is malformed or truncated", "copy all of it, starting with qlk_")
        digest = digest_of(text)
        key = keys.get(digest[:8])
        if key is None or not hmac.compare_digest(key.digest, digest):
            return _unauthorized("the write key is unknown", "questlog key list shows the keys of this project")
        now = time.time()
        if key.has_ended(int(now * 1000)):
            return _unauthorized(f"the write key {key.id} has been revoked", "create another with questlog key create")
        origin = request.header(b"origin")
        if origin and not key.allows(origin):
            return refuse(403, "forbidden_origin", f"the write key {key.id} does not allow pages of this origin",
                          "questlog key create SOURCE --origin ORIGIN")  # fmt: skip
        request.key = key
        request.headers[SOURCE] = key.source.encode()
        return self._check_signature_time(request, key, now) or self.check_rate(key)

    def _authorize_local(self, request: Request) -> Response | None:
        """Refuse pages of other machines: any site can reach localhost through its visitors' browsers."""
        origin = request.header(b"origin")
        if origin and not _is_local(origin):
            return refuse(403, "forbidden_origin", "without a write key only pages from localhost may send", _MAKE)
        return None

    def _check_signature_time(self, request: Request, key: Key, now: float) -> Response | None:
        if not key.secret:
            return None
        seconds = request.header(b"x-signature-time")
        if not request.header(b"x-signature") or not seconds:
            return _unauthorized(f"the write key {key.id} requires every request to be signed", _SIGNING)
        if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12):
            return _unauthorized("X-Signature-Time is not a number of seconds since 1970", _SIGNING)
        if abs(int(seconds) - now) > SIGNED_SECONDS:
            return _unauthorized(
                f"X-Signature-Time differs from the collector's clock by more than {SIGNED_SECONDS} s",
                "check both clocks",
            )
        return None

    def check_rate(self, key: Key) -> Response | None:
        """Return a refusal if a key has exceeded its rate."""
        wait = self._rates.wait_seconds(key.number, key.rate)
        if not wait:
            return None
        return refuse(
            429, "too_fast", f"the write key {key.id} may send {key.rate:g} events per second", "send again later",
            b"retry-after: %d" % math.ceil(wait),
        )  # fmt: skip

    # -- once the body is complete ---------------------------------------------------------------

    def check_signature(self, request: Request) -> Response | None:
        """Verify a signature; each can be used once."""
        key = request.key
        if key is None or not key.secret:
            return None
        signature = request.header(b"x-signature").lower()
        expected = sign(key.secret, request.header(b"x-signature-time"), request.body)
        if not hmac.compare_digest(signature.encode("latin-1", "replace"), expected.encode()):
            return _unauthorized("the signature does not match the time and body", _SIGNING)
        if self._used is None:
            self._used = UsedSignatures(self._used_path)
        if not self._used.use(expected, time.time_ns() // 1_000_000):
            return _unauthorized("this signature has been used before", "sign every request with its own time")
        return None

    def release_signature(self, request: Request) -> None:
        """Allow a signed request to be sent again after the log has refused it."""
        if self._used is not None and request.key is not None and request.key.secret:
            self._used.release(request.header(b"x-signature").lower())

    def count_events(self, request: Request, events: int) -> None:
        """Count a request's events against the rate of its key."""
        if request.key is not None:
            self._rates.count(request.key.number, request.key.rate, events)

    # -- cross-origin requests -------------------------------------------------------------------

    def cors_headers(self, request: Request) -> tuple[bytes, ...]:
        """Return the headers that let a page of an allowed origin read the response."""
        origin = request.header(b"origin")
        if not origin:
            return ()
        keys = self._current_keys()
        allowed = any(key.allows(origin) for key in keys.values()) if keys else self._open and _is_local(origin)
        if not allowed:
            return (b"vary: origin",)
        return (
            b"access-control-allow-origin: " + request.headers[b"origin"].strip(),
            b"access-control-allow-credentials: true",  # sendBeacon sends credentials; the collector reads no cookies
            b"access-control-expose-headers: retry-after",
            b"vary: origin",
        )

    def preflight(self, request: Request, method: str) -> Response:
        """Respond to a browser's preflight request."""
        headers = self.cors_headers(request)
        if len(headers) > 1:
            headers += (
                b"access-control-allow-methods: " + method.encode(),
                b"access-control-allow-headers: authorization, content-encoding, content-type, prefer, x-sent-time,"
                b" x-signature, x-signature-time, x-write-key",
                b"access-control-max-age: 7200",
            )
        return Response(204, headers=headers)

    def _current_keys(self) -> dict[bytes, Key]:
        """Return the keys, at most `KEYS_SECONDS` behind the key store."""
        now = time.monotonic()
        if self._keys is None or now > self._keys_expire:
            version = self._store.version()
            if self._keys is None or version != self._version:
                self._keys = {key.digest[:8]: key for key in self._store.read()}
                self._version = version
            self._keys_expire = now + KEYS_SECONDS  # last: while the store is unreadable, the old keys authorize no one
        return self._keys


_SIGNING = "X-Signature-Time: seconds since 1970; X-Signature: hex HMAC-SHA256, with the secret, of time, dot and body"


def _sent_key(request: Request) -> str:
    """Return the text of the key in a request, from any of the places where clients may put it."""
    scheme, _, value = request.header(b"authorization").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[0]
        except (binascii.Error, ValueError):
            return "not base64"
    return request.header(b"x-write-key") or query_of(request).get("key", "")


def _is_local(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in LOOPBACK
    except ValueError:
        return False


def _unauthorized(message: str, hint: str) -> Response:
    return refuse(401, "unauthorized", message, hint, _CHALLENGE)
