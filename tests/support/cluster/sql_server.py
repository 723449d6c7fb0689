"""Presto or Trino in a process of the test's own: with another catalog, or with TLS and a password."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from questlog.errors import QueryError
from questlog.stack import Stack
from questlog.stack.fetch import fetch, fetched
from questlog.stack.layout import StackLayout
from questlog.stack.servers import SERVERS
from support.cluster.certificates import make_certificates
from support.paths import CLUSTER
from support.waiting import until

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
    """Return a line of the engines' password file, hashed as they support."""
    salt = os.urandom(16)
    digest = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 1000, 32)
    return f"{user}:1000:{salt.hex()}:{digest.hex()}\n"


class Engine:
    """A single coordinator of Presto or Trino on the stack's servers; *catalog* replaces the Iceberg catalog."""

    def __init__(self, name: str, folder: Path, stack: Stack, catalog: str = "", plugins: Path | None = None) -> None:
        self.name, self._folder = name, folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.plain_port = int(probe.getsockname()[1])
        self.layout = StackLayout(folder, {**stack.layout.ports, name: self.plain_port}, stack.layout.java)
        self.layout.write_configuration()
        if catalog:
            (self.layout.etc / name / "catalog" / "iceberg.properties").write_text(catalog)
        self.configure()
        command = SERVERS[name].command(self.layout)
        if plugins is not None:
            command = [f"-Dplugin.dir={plugins}" if word.startswith("-Dplugin.dir=") else word for word in command]
        with (folder / "engine.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def configure(self) -> None:
        """Change the configuration it starts with."""

    @property
    def url(self) -> str:
        return f"{'trino+' if self.name == 'trino' else ''}http://127.0.0.1:{self.plain_port}"

    @property
    def log(self) -> str:
        """The server's log."""
        return (self._folder / "engine.log").read_text()

    def wait(self, run: Callable[[str], object], table: str) -> None:
        """Return once *run* counts the rows of *table*: a new server folds constants before it knows a node."""

        def answers() -> bool:
            try:
                run(f"select count(*) from {table}")
            except QueryError:
                return False
            return True

        until(answers, f"{self.name} answers", 300, every=0.2, alive=lambda: self.process.poll() is None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class SecureEngine(Engine):
    """A server with TLS and passwords for `users`; its internal requests use neither, as by default."""

    def __init__(self, name: str, folder: Path, stack: Stack, users: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._users, self._certificates = users, make_certificates(folder, KEY_STORE)
        self.authority = self._certificates.authority
        super().__init__(name, folder, stack, plugins=_presto_plugins(folder) if name == "presto" else None)

    def configure(self) -> None:
        with (self.layout.etc / self.name / "config.properties").open("a") as config:
            config_text = CONFIG.format(port=self.port, store=self._certificates.store, password=KEY_STORE)
            config.write(config_text + MORE[self.name])
        passwords = self._folder / "passwords"
        passwords.write_text("".join(stored(*user) for user in self._users.items()))
        (self.layout.etc / "password-authenticator.properties").write_text(  # both look in the working folder's etc
            f"password-authenticator.name=file\nfile.password-file={passwords}\n"
        )

    @property
    def url(self) -> str:
        return f"{'trino+' if self.name == 'trino' else ''}https://127.0.0.1:{self.port}"


def _presto_plugins(folder: Path) -> Path:
    """Return a folder with the stack's connectors and the plug-in for passwords."""
    plugins = folder / "plugins"
    plugins.mkdir()
    for plugin in (fetched("presto") / "plugin").iterdir():
        (plugins / plugin.name).symlink_to(plugin)
    (archive,) = fetch("presto-passwords", home=CLUSTER).glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(plugins)
    return plugins
