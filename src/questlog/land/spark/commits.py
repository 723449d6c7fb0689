"""Files -> one snapshot, through Iceberg's own Java API: without a Spark job, and no row passes through the JVM.

Only the newest lander commits. It begins by committing its number, the epoch, to each table. Iceberg shows every
attempt of a later commit the snapshots that the commit would follow, after it has read the table again and before the
metastore swaps it: an attempt that would follow a higher epoch fails, however long its process was stopped before.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from questlog.errors import LakeUnavailable, LanderReplaced
from questlog.lake.checkpoint import STATE, Checkpoint, decode_checkpoint, encode_checkpoint
from questlog.lake.parquet import DAY_COLUMN, METRICS, day_name
from questlog.land.spark.session import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY_MS = 86_400_000
IDS_DAY = (f"truncate[{DAY_MS}]", "received_ms")
"""How the lander's table of ids is partitioned: an expired day is deleted with all its files, without rewriting a
row."""
SILENT_SECONDS = 12.0
"""How long a lock goes without a heartbeat before its holder counts as dead; a live commit sends one every 8 s."""
PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.distribution-mode": "none",
    "write.spark.fanout.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.manifest.min-count-to-merge": "10",
}
"""A query opens every manifest before it starts: for a hundred, Iceberg's default, Presto needs a second."""


@dataclass(frozen=True, slots=True)
class File:
    """A Parquet file not yet written: its day, or None in a table without days; its number of rows; its bytes."""

    day: int | None
    rows: int
    data: bytes


class IcebergCatalog:
    """The catalog's tables as Iceberg's own Java objects, with the epoch under which they are committed to.

    A table object is not thread-safe: a second thread that works on the same tables needs a `twin`.
    """

    def __init__(self, spark: SparkSession, epoch: int = 0) -> None:
        from pyspark.java_gateway import ensure_callback_server_started

        self.spark, self.epoch = spark, epoch
        ensure_callback_server_started(spark.sparkContext._gateway)  # Java calls our fences
        self.commits = Commits(spark._jvm)
        self._opened: dict[tuple[str, str], Any] = {}
        self._fences: dict[tuple[str, str], Fence] = {}

    def twin(self) -> IcebergCatalog:
        """Return the same catalog for another thread of this lander."""
        return IcebergCatalog(self.spark, self.epoch)

    def begin(self, epoch: int) -> None:
        """Commit under *epoch* from now on."""
        self.epoch = epoch
        self._fences.clear()

    def create(self, statement: str) -> None:
        """Run *statement*, which creates a table, with the properties that all our tables have."""
        used = {key: text for key, text in METRICS.items() if ".column." not in key or _last(key) in statement}
        properties = ", ".join(f"'{key}' = '{text}'" for key, text in {**PROPERTIES, **used}.items())
        self.spark.sql(f"{statement}\ntblproperties ({properties})")

    def metadata(self, namespace: str, name: str) -> Any:
        """Return a table's current metadata, in Iceberg's JSON: one round trip to the JVM for all of it."""
        jvm: Any = self.spark._jvm
        return json.loads(
            jvm.org.apache.iceberg.TableMetadataParser.toJson(self._operations(namespace, name).current())
        )

    def table(self, namespace: str, name: str) -> Any:
        """Return Iceberg's table object, opened once; refresh it to see the commits of others."""
        if (namespace, name) not in self._opened:
            jvm: Any = self.spark._jvm
            self._opened[namespace, name] = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable(
                self.spark._jsparkSession, f"{CATALOG}.{namespace}.{name}"
            )
        return self._opened[namespace, name]

    def rows(self, namespace: str, name: str) -> int:
        """Return how many rows the table has."""
        snapshot = self._operations(namespace, name).current().currentSnapshot()
        return 0 if snapshot is None else int(snapshot.summary().get("total-records"))

    def written_ms(self, namespace: str, name: str) -> int:
        """Return when the table's newest metadata was written, by the clock that dates its files."""
        jvm: Any = self.spark._jvm
        path = jvm.org.apache.hadoop.fs.Path(self._operations(namespace, name).current().metadataFileLocation())
        files = path.getFileSystem(self.spark._jsc.hadoopConfiguration())
        return int(files.getFileStatus(path).getModificationTime())

    def reopen(self) -> None:
        """Open every table again at its next use: it may have been dropped and recreated."""
        self._opened.clear()

    def drop(self, namespace: str, name: str) -> None:
        """Drop the table and delete its files."""
        self.spark.sql(f"drop table {CATALOG}.{namespace}.`{name}` purge")
        for by_table in (self._opened, self._fences):
            by_table.pop((namespace, name), None)

    def append(
        self,
        namespace: str,
        name: str,
        files: Sequence[File],
        checkpoint: Checkpoint | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Add *files* and *checkpoint* in one snapshot; raise `LanderReplaced` if another lander took over."""
        fence = fence or self._fences.setdefault((namespace, name), Fence(self.epoch))
        text = None if checkpoint is None else encode_checkpoint(checkpoint)
        self.commits.append(self.table(namespace, name), files, text, fence)

    def delete_below(self, namespace: str, name: str, column: str, below: int) -> None:
        """Remove the files whose rows are all less than *below* in *column*; raise `LanderReplaced` as `append`."""
        table = self.table(namespace, name)
        table.refresh()
        if not table.spec().isUnpartitioned():
            self.commits.delete(table, column, below, Fence(self.epoch))

    def _operations(self, namespace: str, name: str) -> Any:
        table = self.table(namespace, name)
        table.refresh()
        return table.operations()


class Commits:
    """Iceberg's classes, looked up once: each lookup costs a round trip to the JVM."""

    def __init__(self, jvm: Any) -> None:
        iceberg = jvm.org.apache.iceberg
        self._files, self._configs = iceberg.DataFiles, iceberg.MetricsConfig
        self._memory, self._parquet = iceberg.inmemory.InMemoryInputFile, iceberg.parquet.ParquetUtil
        self._expressions = iceberg.expressions.Expressions

    def append(self, table: Any, files: Sequence[File], checkpoint: str | None, fence: Fence) -> None:
        """Add *files* and *checkpoint* to Iceberg's *table* in one snapshot.

        A failed commit leaves files that table maintenance removes. Raises the *fence*'s error if it refuses.
        """
        append = table.newAppend().validateWith(fence)
        for file in files:
            append.appendFile(self._write(table, file))
        _commit(append if checkpoint is None else append.set(STATE, checkpoint), fence)

    def delete(self, table: Any, column: str, below: int, fence: Fence) -> None:
        """Remove the files whose rows are all less than *below* in *column*; fails on a file with other rows too.

        Raises the *fence*'s error if it refuses.
        """
        rows = self._expressions.lessThan(column, below)
        _commit(table.newDelete().deleteFromRowFilter(rows).validateWith(fence), fence)

    def _write(self, table: Any, file: File) -> Any:
        """Write the file into the table's folder, and return Iceberg's description of it."""
        spec, name = table.spec(), f"{uuid.uuid4()}.parquet"
        partition = _partition(table, spec, file.day)
        location = table.locationProvider().newDataLocation(f"{partition}/{name}" if partition else name)
        stream = table.io().newOutputFile(location).create()
        try:
            stream.write(file.data)
        finally:
            stream.close()
        # The statistics come from the bytes in memory: reading the file back would cost a request to HDFS.
        metrics = self._parquet.fileMetrics(self._memory(file.data), self._configs.forTable(table))
        builder = self._files.builder(spec).withPath(location).withFormat("parquet")
        builder = builder.withFileSizeInBytes(len(file.data)).withMetrics(metrics)
        return (builder.withPartitionPath(partition) if partition else builder).build()


def _commit(update: Any, fence: Fence) -> None:
    from py4j.protocol import Py4JJavaError

    try:
        update.commit()
    except Py4JJavaError:
        fence.raise_refusal()
        raise


def _partition(table: Any, spec: Any, day: int | None) -> str:
    if spec.isUnpartitioned():
        return ""
    fields = [(f.name(), f.transform().toString(), spec.schema().findColumnName(f.sourceId())) for f in spec.fields()]
    if len(fields) == 1 and day is not None:
        ((name, *split),) = fields
        if split == ["day", DAY_COLUMN]:
            return f"{name}={day_name(day)}"
        if split == list(IDS_DAY):
            return f"{name}={day * DAY_MS}"
    raise LakeUnavailable(
        f"{table.name()} is partitioned by {', '.join(f'{t}({c})' for _, t, c in fields)}",
        hint=f"questlog lands only into tables without partitions, or partitioned by day({DAY_COLUMN})",
    )


def _last(key: str) -> str:
    return key.rsplit(".", 1)[1]


# -- only the newest lander commits ------------------------------------------------------------------


class Overtaken(Exception):
    """The lander itself has committed since: the checkpoint to repeat is no longer the newest."""


class Fence:
    """The condition on one table under which a lander may commit to it; Java evaluates it.

    With *claims*, no other lander may have the epoch yet; with *after* the newest checkpoint must be exactly that text.
    """

    def __init__(self, epoch: int, *, claims: bool = False, after: str | None = None) -> None:
        self.epoch, self._claims, self._after = epoch, claims, after
        self._rival: int | None = None
        self._overtaken = False

    def validate(self, ancestors: Any) -> bool:
        """Return whether a commit may follow *ancestors*, newest first. Called from Java."""
        self._rival, self._overtaken = None, False
        for text in _checkpoint_texts(ancestors):
            epoch = decode_checkpoint(text).epoch
            if epoch > self.epoch or (self._claims and epoch == self.epoch):
                self._rival = epoch
                return False
            if self._after is not None:
                self._overtaken = text != self._after
                return not self._overtaken
            if epoch == self.epoch:  # validated when it was committed: nothing higher can precede it
                return True
        return True

    def errorMessage(self) -> str:  # Java's name
        """Return why, for Java's stack trace. Called from Java."""
        return f"epoch {self.epoch} may not follow {'its own newer checkpoint' if self._overtaken else self._rival}"

    def raise_refusal(self) -> None:
        """Raise the error of the last refusal; return if there was none."""
        if self._rival is not None:
            raise replaced(self._rival, self.epoch)
        if self._overtaken:
            raise Overtaken

    class Java:  # the interface, for py4j
        implements = ("org.apache.iceberg.SnapshotAncestryValidator",)


def replaced(rival: int, epoch: int) -> LanderReplaced:
    """Return the error of a lander whose tables another one has taken over."""
    return LanderReplaced(
        f"another lander took over these tables (it is number {rival}, this one {epoch})", hint="run only one lander"
    )


def _checkpoint_texts(ancestors: Any) -> Iterator[str]:
    iterator = ancestors.iterator()
    while iterator.hasNext():
        if (text := iterator.next().summary().get(STATE)) is not None:
            yield text


# -- the Metastore's locks ---------------------------------------------------------------------------


def release_locks(spark: SparkSession, namespaces: Collection[str]) -> int:
    """Release the Metastore's locks on tables of *namespaces* that dead landers of this machine left; return how many.

    A Metastore that died during our own commit leaves them too. Call it while no commit of ours is under way. Without
    it the next commit waits until the Metastore times them out, after 300 s by default. A lock with a live holder
    stays. A REST catalog has no locks.
    """
    if spark.conf.get(f"spark.sql.catalog.{CATALOG}.type") == "rest":
        return 0
    jvm: Any = spark._jvm
    hive = jvm.org.apache.hadoop.hive
    configuration = hive.conf.HiveConf()
    configuration.set("hive.metastore.uris", spark.conf.get(f"spark.sql.catalog.{CATALOG}.uri"))
    host = jvm.java.net.InetAddress.getLocalHost().getHostName()

    def heartbeats() -> Mapping[int, int]:
        """Return the time of the last heartbeat of each lock."""
        locks = client.showLocks(hive.metastore.api.ShowLocksRequest()).getLocks()
        ours = [lock for lock in locks if lock.getDbname() in namespaces and lock.getHostname() == host]
        return {lock.getLockid(): lock.getLastheartbeat() for lock in ours}

    with closing(hive.metastore.HiveMetaStoreClient(configuration)) as client:
        silent = heartbeats()
        deadline = time.monotonic() + SILENT_SECONDS
        while silent and time.monotonic() < deadline:
            time.sleep(0.5)
            now = heartbeats()
            silent = {lock: last for lock, last in silent.items() if now.get(lock) == last}
        for lock in silent:
            client.unlock(lock)
        return len(silent)
