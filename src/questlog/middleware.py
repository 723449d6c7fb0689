"""The middleware under their public names: `from questlog.middleware import ASGIMiddleware, WSGIMiddleware`."""

from questlog.collect.asgi import ASGIMiddleware
from questlog.collect.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]
