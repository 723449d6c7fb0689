"""The protocol of Presto, and of Trino, which names its headers otherwise: one statement in, pages of rows out.

Written here rather than taken: Presto's own client has had no release since 2023, gives times and decimals as
text and does not speak to Trino; Trino's does not speak to Presto. The protocol is three requests.
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
_TRIES_SECONDS = 10.0
"""How long a server that does not answer is asked again: it may only be starting anew."""
_CALL_SECONDS = 60.0
_SETTINGS = 'see [presto] in questlog.toml; QUESTLOG_PRESTO_PASSWORD, or password = { file = "…" }, is the password'


@dataclass(frozen=True, slots=True)
class Server:
    """Where the engine is and who asks. `trino+https://…` speaks to Trino."""

    url: str
    catalog: str
    schema: str
    user: str = "questlog"
    password: str = field(default="", repr=False)
    ca_file: str = ""

    @property
    def dialect(self) -> str:
        """The word in the names of the headers."""
        return "Trino" if urlsplit(self.url).scheme.startswith("trino") else "Presto"

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme.endswith("https")

    def headers(self) -> dict[str, str]:
        """Return what goes with every request."""
        if self.password and not self.is_secure:
            raise QueryError("a password would go over the network unencrypted", hint="use an https:// address")
        said = {
            "User": self.user, "Source": "questlog", "Catalog": self.catalog, "Schema": self.schema, "Time-Zone": "UTC",
        }  # fmt: skip
        found = {f"X-{self.dialect}-{name}": value for name, value in said.items() if value}
        if self.password:
            found["Authorization"] = "Basic " + base64.b64encode(_latin(f"{self.user}:{self.password}")).decode()
        return found


def _latin(text: str) -> bytes:
    """Return the bytes that both engines read back as *text*: they take them for ISO 8859-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()  # only what stands before them, a proxy, may know such letters


@dataclass(slots=True)
class Answer:
    """What a statement returned: (name, type) of each column, and the rows as JSON has them."""

    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)


class ServerError(QueryError):
    """The engine refused or failed; *name* is its own short word for why."""

    def __init__(self, message: str, name: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.name = name


def run(server: Server, statement: str, seconds: float, call_seconds: float = _CALL_SECONDS) -> Answer:
    """Run *statement*; after *seconds*, or when the caller is interrupted, the server is told to stop.

    A server that says nothing at all for *call_seconds* counts as away.
    """
    deadline = time.monotonic() + seconds
    answer = Answer()
    with _connected(server, call_seconds) as connection:
        page = _call(connection, server, "POST", "/v1/statement", statement, deadline)
        try:
            while True:
                _raise_error(page)
                answer.columns = [(c["name"], c["type"]) for c in page.get("columns") or ()] or answer.columns
                answer.rows += page.get("data") or ()
                if "nextUri" not in page:
                    return answer
                if time.monotonic() > deadline:
                    raise QueryError(f"stopped after {seconds:g} s", hint="QUESTLOG_QUERY_SECONDS allows more")
                page = _call(connection, server, "GET", _path(page["nextUri"]), None, deadline)
        except BaseException:
            if "nextUri" in page:
                _cancel(server, _path(page["nextUri"]))
            raise


@contextlib.contextmanager
def _connected(server: Server, seconds: float) -> Iterator[http.client.HTTPConnection]:
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


def _trusted(server: Server) -> ssl.SSLContext:
    """Return what the server's certificate is checked by: the authorities of the settings, or else the machine's."""
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:  # no such file, or none that holds certificates
        reason = error.strerror or str(error)
        raise QueryError(f"presto: ca.location: {server.ca_file}: {reason}", hint=_SETTINGS) from error


def _call(
    connection: http.client.HTTPConnection, server: Server, method: str, path: str, body: str | None, deadline: float
) -> Mapping[str, Any]:
    """Return one page. A page may be asked for twice; a statement is sent again only if it cannot have arrived."""
    patience = min(deadline, time.monotonic() + _TRIES_SECONDS)
    while True:
        try:
            connection.request(method, path, body.encode() if body is not None else None, server.headers())
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens it again
            if isinstance(error, ssl.SSLCertVerificationError):
                message = f"the certificate of {server.dialect} at {server.url} is refused: {error.verify_message}"
                raise QueryError(message, hint="ca.location in [presto] names the authority to trust") from error
            again = method == "GET" or isinstance(error, ConnectionRefusedError)
            if isinstance(error, ssl.SSLError) or not again or time.monotonic() > patience:
                message = f"{server.dialect} at {server.url} does not answer: {error or type(error).__name__}"
                raise QueryError(message, hint="questlog stack status", retry_after=5) from error
            time.sleep(0.2)
            continue
        if response.status in _BUSY and time.monotonic() < patience:
            time.sleep(0.1)
            continue
        if response.status == 401:
            raise QueryError(
                f"{server.dialect} at {server.url} wants another user or password than those of {server.user}",
                hint=_SETTINGS,
            )
        if response.status != 200:
            raise QueryError(f"{server.url} answered {response.status}: {text[:200].decode('utf-8', 'replace')}")
        found: Mapping[str, Any] = json.loads(text)
        return found


def _cancel(server: Server, path: str) -> None:
    """Tell the server that nobody waits any more; that it does not hear is no trouble of the caller's."""
    with contextlib.suppress(OSError, http.client.HTTPException, QueryError), _connected(server, 5) as connection:
        connection.request("DELETE", path, headers=server.headers())
        connection.getresponse().read()


def _path(uri: str) -> str:
    """Return what to ask the same server for: a password goes nowhere else."""
    parts = urlsplit(uri)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _raise_error(page: Mapping[str, Any]) -> None:
    error = page.get("error")
    if error:
        raise ServerError(str(error.get("message", "the query failed")), str(error.get("errorName", "")))
