"""An S3 server over a folder, in a process of the test's own: S3Proxy."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from questlog.stack.fetch import fetch
from questlog.stack.layout import find_java
from support.paths import CLUSTER
from support.waiting import until

CONFIG = """
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={user}
s3proxy.credential={secret}
jclouds.provider=filesystem-nio2
jclouds.identity=none
jclouds.credential=none
jclouds.filesystem.basedir={data}
"""
LOGGING = """
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%p %m%n</pattern></encoder>
  </appender>
  <root level="warn"><appender-ref ref="out"/></root>
</configuration>
"""


class S3Server:
    """One bucket `lake`, with access for one *user*."""

    def __init__(self, folder: Path, user: str, secret: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.bucket, self._log = folder / "data" / "lake", folder / "s3.log"
        self.bucket.mkdir(parents=True)
        config = folder / "s3proxy.conf"
        config.write_text(CONFIG.format(port=self.port, user=user, secret=secret, data=folder / "data"))
        (folder / "logback.xml").write_text(LOGGING)
        words = [str(find_java()), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        words += [f"-Dlogback.configurationFile={folder}/logback.xml", "-cp", f"{fetch('s3-server', home=CLUSTER)}/*"]
        words += ["org.gaul.s3proxy.Main", "--properties", str(config)]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        until(self._listens, "the server listens", 180, every=0.2, alive=lambda: self.process.poll() is None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """The server's log."""
        return self._log.read_text()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
