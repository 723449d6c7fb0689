"""Serves `questlog.js`, the client for browsers."""

from __future__ import annotations

from functools import cache
from importlib import resources

from questlog.collector.http import Request, Respond, Response

PATH = "/v1/questlog.js"
_HEADERS = (
    b"vary: origin",  # a response cached for a plain tag does not suit a tag with crossorigin
    b"cache-control: public, max-age=3600",
    b"cross-origin-resource-policy: cross-origin",  # any site may load the script; sending is authorized elsewhere
)


def script(request: Request, respond: Respond) -> None:
    """Respond with the script."""
    respond(_response())


@cache
def _response() -> Response:
    text = resources.files("questlog.collector").joinpath("static", "questlog.js").read_bytes()
    return Response(200, text, b"text/javascript; charset=utf-8", _HEADERS)
