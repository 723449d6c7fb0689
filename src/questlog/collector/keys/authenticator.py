"""Who may send: finds a request's key, and judges origin, signature and rate. No answer ever repeats a key."""

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
from questlog.collector.keys import SIGNED_SECONDS, Key, digest_of, is_whole, sign
from questlog.collector.keys.rate import Rates
from questlog.collector.keys.store import KeyStore, UsedSignatures

KEYS_SECONDS = 0.5
"""How soon a worker knows of a key that was made or revoked."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SOURCE = b"x-questlog-source"
"""The header that names a request's source: a plan that keeps it gets a column. Only the gate sets it."""
_MAKE = "questlog key create SOURCE makes a key; send it as Authorization: Bearer <key>, or X-Write-Key"
_CHALLENGE = b'www-authenticate: Bearer realm="questlog"'


class Authenticator:
    """The keys of a project as one worker knows them. Without any key, this machine may send."""

    def __init__(self, folder: Path, rates: Rates, *, open_without_keys: bool) -> None:
        self._store, self._rates = KeyStore(folder / "keys.db"), rates
        self._open = open_without_keys  # listening on this machine only
        self._used_path = folder / "signatures.db"
        self._used: UsedSignatures | None = None
        self._keys: dict[bytes, Key] | None = None
        self._version: object = None
        self._keys_expire = 0.0

    # -- while the headers are there -------------------------------------------------------------

    def authorize(self, request: Request) -> Response | None:
        """Let a request pass, with its key, or say why not.  1 key  2 origin  3 signature's time  4 rate."""
        request.headers.pop(SOURCE, None)
        keys = self._current_keys()
        if not keys and self._open:
            return self._authorize_local(request)
        key = _sent_key(request)
        if not key:
            return _unauthorized("this collector wants a write key", _MAKE)
        if not is_whole(key):
            return _unauthorized("this is no write key, or not all of it", "copy it again, from qlk_ to its end")
        digest = digest_of(key)
        found = keys.get(digest[:8])
        if found is None or not hmac.compare_digest(found.digest, digest):
            return _unauthorized("this write key is not known here", "questlog key list shows the keys of this project")
        now = time.time()
        if found.is_over(int(now * 1000)):
            return _unauthorized(f"the write key {found.id} was revoked", "questlog key create makes another")
        origin = request.header(b"origin")
        if origin and not found.allows(origin):
            return refuse(403, "forbidden_origin", f"the write key {found.id} is not for pages of that origin",
                          "questlog key create SOURCE --origin ORIGIN")  # fmt: skip
        request.key = found
        request.headers[SOURCE] = found.source.encode()
        return self._check_signature_time(request, found, now) or self.check_rate(found)

    def _authorize_local(self, request: Request) -> Response | None:
        """A page of any site can reach this machine through its user's browser: only our own may send."""
        origin = request.header(b"origin")
        if origin and not _is_local(origin):
            return refuse(403, "forbidden_origin", "without a write key only pages of this machine may send", _MAKE)
        return None

    def _check_signature_time(self, request: Request, key: Key, now: float) -> Response | None:
        if not key.secret:
            return None
        seconds = request.header(b"x-signature-time")
        if not request.header(b"x-signature") or not seconds:
            return _unauthorized(f"the write key {key.id} wants each request signed", _SIGNING)
        if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12):
            return _unauthorized("X-Signature-Time is no number of seconds since 1970", _SIGNING)
        if abs(int(seconds) - now) > SIGNED_SECONDS:
            return _unauthorized(f"X-Signature-Time is over {SIGNED_SECONDS} s from ours", "check the clock")
        return None

    def check_rate(self, key: Key) -> Response | None:
        """Return a refusal if a key has sent more than its rate."""
        wait = self._rates.wait_seconds(key.number, key.rate)
        if not wait:
            return None
        return refuse(
            429, "too_fast", f"the write key {key.id} may send {key.rate:g} events a second", "send them later",
            b"retry-after: %d" % math.ceil(wait),
        )  # fmt: skip

    # -- once the body is there ------------------------------------------------------------------

    def check_signature(self, request: Request) -> Response | None:
        """Verify a signature; each counts once."""
        key = request.key
        if key is None or not key.secret:
            return None
        given = request.header(b"x-signature").lower()
        wanted = sign(key.secret, request.header(b"x-signature-time"), request.body)
        if not hmac.compare_digest(given.encode("latin-1", "replace"), wanted.encode()):
            return _unauthorized("the signature is not that of this body", _SIGNING)
        if self._used is None:
            self._used = UsedSignatures(self._used_path)
        if not self._used.use(wanted, time.time_ns() // 1_000_000):
            return _unauthorized("this signed request was here before", "sign each request anew")
        return None

    def release_signature(self, request: Request) -> None:
        """Let a signed request that the log refused be sent again."""
        if self._used is not None and request.key is not None and request.key.secret:
            self._used.give_back(request.header(b"x-signature").lower())

    def count_events(self, request: Request, events: int) -> None:
        """Count a request's events for its key's rate."""
        if request.key is not None:
            self._rates.count(request.key.number, request.key.rate, events)

    # -- what browsers ask -----------------------------------------------------------------------

    def cors_headers(self, request: Request) -> tuple[bytes, ...]:
        """Return the headers that let a page of an allowed origin read the answer."""
        origin = request.header(b"origin")
        if not origin:
            return ()
        keys = self._current_keys()
        allowed = any(key.allows(origin) for key in keys.values()) if keys else self._open and _is_local(origin)
        if not allowed:
            return (b"vary: origin",)
        return (
            b"access-control-allow-origin: " + request.headers[b"origin"].strip(),
            b"access-control-allow-credentials: true",  # sendBeacon asks with them; nothing here reads a cookie
            b"access-control-expose-headers: retry-after",
            b"vary: origin",
        )

    def preflight(self, request: Request, method: str) -> Response:
        """Answer what a browser asks before it lets a page send."""
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
        """Return the keys, at most `KEYS_SECONDS` behind their file."""
        now = time.monotonic()
        if self._keys is None or now > self._keys_expire:
            version = self._store.version()
            if self._keys is None or version != self._version:
                self._keys = {key.digest[:8]: key for key in self._store.read()}
                self._version = version
            self._keys_expire = now + KEYS_SECONDS  # last: while the file cannot be read, what we knew lets nobody in
        return self._keys


_SIGNING = "X-Signature-Time: seconds since 1970; X-Signature: hex HMAC-SHA256 of time, dot and body, by the secret"


def _sent_key(request: Request) -> str:
    """Return the key a request carries, in any of the places that clients can put it."""
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
