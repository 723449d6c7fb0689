"""What runs inside a game's own web server: the Flask extension and the WSGI and ASGI middleware."""
