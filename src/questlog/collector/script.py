"""The browser's client, `questlog.js`, as a page of the collector."""

from __future__ import annotations

from functools import cache
from importlib import resources

from questlog.collector.http import Request, Respond, Response

PATH = "/v1/questlog.js"
_HEADERS = (
    b"vary: origin",  # what was kept of an answer to a plain tag is none to a tag with crossorigin
    b"cache-control: public, max-age=3600",
    b"cross-origin-resource-policy: cross-origin",  # pages of any site may load it; who may send is asked elsewhere
)


def script(request: Request, respond: Respond) -> None:
    """Answer with the script."""
    respond(_response())


@cache
def _response() -> Response:
    text = resources.files("questlog.collector").joinpath("static", "questlog.js").read_bytes()
    return Response(200, text, b"text/javascript; charset=utf-8", _HEADERS)
