"""What runs inside a game's own web server: extension and middleware that record its requests."""
