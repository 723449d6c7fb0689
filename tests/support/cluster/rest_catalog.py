"""An Iceberg REST catalog in a process of the test's own: Iceberg's reference server, its pointers in SQLite.

Java is driven from here, so that nothing need be compiled. It ends with this process.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyspark
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from questlog.stack.fetch import fetch, fetched
from questlog.stack.layout import find_java
from support.paths import CLUSTER

PLAIN_S3 = "-Daws.requestChecksumCalculation=WHEN_REQUIRED"
"""Amazon's client appends checksums that only Amazon's servers understand."""


class RestCatalog:
    """Tables below *warehouse*; the server reads their metadata with *options* and *jars*."""

    def __init__(self, folder: Path, warehouse: str, options: Mapping[str, str] = {}, jars: Sequence[str] = ()) -> None:
        (bridge,) = (Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar")
        parts = [f"{fetch('rest-catalog', home=CLUSTER)}/*", f"{fetched('hdfs')}/*", *jars]
        port = launch_gateway(
            jarpath=str(bridge), classpath=":".join(parts), die_on_exit=True, java_path=str(find_java()),
            javaopts=["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", PLAIN_S3],
            redirect_stdout=subprocess.DEVNULL, redirect_stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auto_convert=True))
        java: Any = self._gateway.jvm
        iceberg = java.org.apache.iceberg
        settings = {
            "uri": f"jdbc:sqlite:{folder}/catalog.db", "warehouse": warehouse, "jdbc.schema-version": "V1",
            "io-impl": "org.apache.iceberg.hadoop.HadoopFileIO", **options,
        }  # fmt: skip
        catalog = iceberg.jdbc.JdbcCatalog()
        catalog.setConf(java.org.apache.hadoop.conf.Configuration())
        catalog.initialize("rest", settings)
        jetty = java.org.eclipse.jetty
        self._server = jetty.server.Server(java.java.net.InetSocketAddress("127.0.0.1", 0))
        handler = jetty.servlet.ServletContextHandler()
        servlet = iceberg.rest.RESTCatalogServlet(iceberg.rest.RESTCatalogAdapter(catalog))
        handler.addServlet(jetty.servlet.ServletHolder(servlet), "/*")
        self._server.setHandler(handler)
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getURI().getPort()}"

    def stop(self) -> None:
        self._server.stop()
        self._gateway.shutdown()
