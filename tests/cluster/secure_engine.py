"""Presto or Trino as a process of the test's own that asks for TLS and a password."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from authority import make_certificates

from questlog.stack import Stack
from questlog.stack.fetch import fetch, fetched
from questlog.stack.place import Place
from questlog.stack.servers import SERVERS

HERE = Path(__file__).parent
KEY_STORE = "key-store-s3cret"
CONFIG = """
http-server.https.enabled=true
http-server.https.port={port}
http-server.https.keystore.path={store}
http-server.https.keystore.key={password}
http-server.authentication.type=PASSWORD
"""
MORE = {"presto": "", "trino": "internal-communication.shared-secret=of-one-node\n"}


def stored(user: str, password: str) -> str:
    """Return a line of the file that the engines keep passwords in, hashed as they allow."""
    salt = os.urandom(16)
    digest = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 1000, 32)
    return f"{user}:1000:{salt.hex()}:{digest.hex()}\n"


class SecureEngine:
    """One coordinator on the stack's metastore and files, alone; `users` are those it lets in."""

    def __init__(self, name: str, folder: Path, stack: Stack, users: dict[str, str]) -> None:
        self.name, self._folder = name, folder
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.port, plain = one.getsockname()[1], two.getsockname()[1]
        certificates = make_certificates(folder, KEY_STORE)
        self.authority = certificates.authority
        # to itself a coordinator speaks without TLS, on a port of its own, as it comes
        place = Place(folder, {**stack.place.ports, name: plain}, stack.place.java)
        place.write_configuration()
        with (place.etc / name / "config.properties").open("a") as config:
            config.write(CONFIG.format(port=self.port, store=certificates.store, password=KEY_STORE) + MORE[name])
        passwords = folder / "passwords"
        passwords.write_text("".join(stored(*user) for user in users.items()))
        (place.etc / "password-authenticator.properties").write_text(  # both look for it in the working folder's etc
            f"password-authenticator.name=file\nfile.password-file={passwords}\n"
        )
        command = SERVERS[name].command(place)
        if name == "presto":
            plugins = f"-Dplugin.dir={_presto_plugins(folder)}"
            command = [plugins if word.startswith("-Dplugin.dir=") else word for word in command]
        with (folder / "engine.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    @property
    def url(self) -> str:
        return f"{'trino+' if self.name == 'trino' else ''}https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that the server said."""
        return (self._folder / "engine.log").read_text()

    def wait(self, works: Callable[[], bool]) -> None:
        """Return once it *works*; for its first seconds it refuses, or knows no node that could."""
        deadline = time.monotonic() + 120
        while not works():
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.2)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _presto_plugins(folder: Path) -> Path:
    """Return a folder with the stack's connectors and what checks passwords."""
    plugins = folder / "plugins"
    plugins.mkdir()
    for found in (fetched("presto") / "plugin").iterdir():
        (plugins / found.name).symlink_to(found)
    (archive,) = fetch("presto-passwords", home=HERE).glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(plugins)
    return plugins
