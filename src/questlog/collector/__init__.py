"""The collector's process: accepts events over HTTP, validates them, and responds once they are durable."""
