"""A real Kafka broker in a process of the test's own, to kill, freeze and restart."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from questlog.stack import jars
from support.waiting import until

PROPERTIES = """
process.roles={roles}
node.id={node}
listeners={listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
"""


class Broker:
    """One broker with its log in *folder*, or in *data*: its own controller, or a second broker with the *first*'s."""

    properties = PROPERTIES
    users: Sequence[str] = ()
    """The users for SCRAM."""
    client: Mapping[str, str] = {}
    """Settings that its clients need."""

    def __init__(self, folder: Path, *, data: Path | None = None, first: Broker | None = None) -> None:
        self._folder, self._jars = folder, ":".join(jars("kafka"))
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.port, self._controller = one.getsockname()[1], two.getsockname()[1]
        listeners, self.node = f"PLAINTEXT://127.0.0.1:{self.port}", 1 if first is None else 2
        if first is None:
            listeners += f",CONTROLLER://127.0.0.1:{self._controller}"
        text = self.properties.format(
            roles="broker,controller" if first is None else "broker", node=self.node, listeners=listeners,
            port=self.port, controller=(first or self)._controller, data=data or folder / "data",
        )  # fmt: skip
        (folder / "server.properties").write_text(text)
        words = ["--standalone"] if first is None else []
        words += [word for user in self.users for word in ("--add-scram", user)]
        words += ["-t", "AAAAAAAAQAC7Jy__uUM5gw", "-c", str(folder / "server.properties")]
        self._java("kafka.tools.StorageTool", "format", *words).wait()
        self.process = self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _java(self, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / "broker.log").open("ab") as log:
            return subprocess.Popen(
                ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", self._jars, *words],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        """Start, and return once it answers a client."""
        from confluent_kafka.admin import AdminClient

        self.process = self._java("kafka.Kafka", str(self._folder / "server.properties"))
        settings = {**self.client, "bootstrap.servers": self.address, "log_level": 0}

        def answers() -> bool:
            assert self.process.poll() is None, (self._folder / "broker.log").read_text()[-2000:]
            try:
                return bool(AdminClient(settings).list_topics(timeout=2))
            except Exception:
                return False

        until(answers, "the broker answers", 180)
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
