"""The middleware under their public names: `from questlog.middleware import ASGIMiddleware, WSGIMiddleware`."""

from questlog.web.asgi import ASGIMiddleware
from questlog.web.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "WSGIMiddleware"]
