"""The client protocol of Presto and Trino: one statement in, pages of rows out.

The two differ only in the names of their headers. We implement the protocol, three requests, because no maintained
client supports both: Presto's own has had no release since 2023 and returns times and decimals as text; Trino's does
not support Presto.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from questlog.errors import QueryError

_BUSY = {502, 503, 504}
_RETRY_SECONDS = 10.0
"""How long to retry a server that refuses connections: it may be restarting."""
_CALL_SECONDS = 60.0
_SETTINGS = 'see [presto] in questlog.toml; QUESTLOG_PRESTO_PASSWORD, or password = { file = "…" }, is the password'


@dataclass(frozen=True, slots=True)
class PrestoServer:
    """The address of the engine, and the user who queries it. A URL `trino+https://…` selects Trino."""

    url: str
    catalog: str
    schema: str
    user: str = "questlog"
    password: str = field(default="", repr=False)
    ca_file: str = ""

    @property
    def dialect(self) -> str:
        """The engine's name, as its headers spell it: Presto or Trino."""
        return "Trino" if urlsplit(self.url).scheme.startswith("trino") else "Presto"

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme.endswith("https")

    def headers(self) -> dict[str, str]:
        """Return the headers of every request. Raise `QueryError` rather than send a password unencrypted."""
        if self.password and not self.is_secure:
            raise QueryError("the password would be sent unencrypted", hint="use an https:// address")
        values = {
            "User": self.user, "Source": "questlog", "Catalog": self.catalog, "Schema": self.schema, "Time-Zone": "UTC",
        }  # fmt: skip
        headers = {f"X-{self.dialect}-{name}": value for name, value in values.items() if value}
        if self.password:
            headers["Authorization"] = "Basic " + base64.b64encode(_latin(f"{self.user}:{self.password}")).decode()
        return headers


def _latin(text: str) -> bytes:
    """Return *text* as ISO 8859-1, which both engines decode headers as."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()  # only a proxy in front of the engine can accept other letters


@dataclass(slots=True)
class PrestoAnswer:
    """The result of a statement: (name, type) of each column, and the rows as decoded from JSON."""

    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)


class PrestoError(QueryError):
    """The engine refused the statement, or it failed; *name* is the engine's error name."""

    def __init__(self, message: str, name: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.name = name


def run(
    server: PrestoServer,
    statement: str,
    seconds: float,
    call_seconds: float = _CALL_SECONDS,
    *,
    retry_seconds: float = _RETRY_SECONDS,
) -> PrestoAnswer:
    """Run *statement* and return its rows; cancel it after *seconds*, or when the caller is interrupted.

    A request that is not answered within *call_seconds* fails. One that the server refuses is repeated for
    *retry_seconds*.
    """
    deadline = time.monotonic() + seconds
    answer = PrestoAnswer()
    with _connected(server, call_seconds) as connection:
        page = _call(connection, server, "POST", "/v1/statement", statement, deadline, retry_seconds)
        try:
            while True:
                _raise_error(page)
                answer.columns = [(c["name"], c["type"]) for c in page.get("columns") or ()] or answer.columns
                answer.rows += page.get("data") or ()
                if "nextUri" not in page:
                    return answer
                if time.monotonic() > deadline:
                    raise QueryError(f"stopped after {seconds:g} s", hint="QUESTLOG_QUERY_SECONDS allows more")
                page = _call(connection, server, "GET", _path(page["nextUri"]), None, deadline, retry_seconds)
        except BaseException:
            if "nextUri" in page:
                _cancel(server, _path(page["nextUri"]))
            raise


@contextlib.contextmanager
def _connected(server: PrestoServer, seconds: float) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(server.url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if server.is_secure:
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=_trusted(server))
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        yield connection
    finally:
        connection.close()


def _trusted(server: PrestoServer) -> ssl.SSLContext:
    """Return a TLS context that trusts the authority from the settings or, without one, the machine's authorities."""
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:  # the file is missing, or holds no certificates
        reason = error.strerror or str(error)
        raise QueryError(f"presto: ca.location: {server.ca_file}: {reason}", hint=_SETTINGS) from error


def _call(
    connection: http.client.HTTPConnection,
    server: PrestoServer,
    method: str,
    path: str,
    body: str | None,
    deadline: float,
    retry_seconds: float,
) -> Mapping[str, Any]:
    """Return one page. A page may be requested twice; a statement is sent again only if it cannot have arrived."""
    patience = min(deadline, time.monotonic() + retry_seconds)
    while True:
        try:
            connection.request(method, path, body.encode() if body is not None else None, server.headers())
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request reopens it
            if isinstance(error, ssl.SSLCertVerificationError):
                message = f"cannot verify the certificate of {server.dialect} at {server.url}: {error.verify_message}"
                raise QueryError(message, hint="ca.location in [presto] names the authority to trust") from error
            may_repeat = method == "GET" or isinstance(error, ConnectionRefusedError)
            if isinstance(error, ssl.SSLError) or not may_repeat or time.monotonic() > patience:
                message = f"{server.dialect} at {server.url} does not answer: {error or type(error).__name__}"
                raise QueryError(message, hint="questlog stack status", retry_after=5) from error
            time.sleep(0.2)
            continue
        if response.status in _BUSY and time.monotonic() < patience:
            time.sleep(0.1)
            continue
        if response.status == 401:
            raise QueryError(
                f"{server.dialect} at {server.url} rejected the user name or password of {server.user}",
                hint=_SETTINGS,
            )
        if response.status != 200:
            raise QueryError(f"{server.url} answered {response.status}: {text[:200].decode('utf-8', 'replace')}")
        page: Mapping[str, Any] = json.loads(text)
        return page


def _cancel(server: PrestoServer, path: str) -> None:
    """Cancel the statement on the server; a failure to do so is ignored."""
    with contextlib.suppress(OSError, http.client.HTTPException, QueryError), _connected(server, 5) as connection:
        connection.request("DELETE", path, headers=server.headers())
        connection.getresponse().read()


def _path(uri: str) -> str:
    """Return the path and query of *uri*: requests go to the configured server only, as they carry the password."""
    parts = urlsplit(uri)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _raise_error(page: Mapping[str, Any]) -> None:
    error = page.get("error")
    if error:
        raise PrestoError(str(error.get("message", "the query failed")), str(error.get("errorName", "")))
