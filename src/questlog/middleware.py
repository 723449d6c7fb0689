"""The public import path of the middleware: `from questlog.middleware import ASGIMiddleware, WSGIMiddleware`."""

from questlog.web.asgi import ASGIMiddleware
from questlog.web.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]
