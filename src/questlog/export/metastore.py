"""External tables in the Hive Metastore, managed through the client inside Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from questlog.errors import QuestlogError

MARK = "questlog.export"
"""The parameter of a table that an export created; its value is the source of the rows."""
_FORMAT = "org.apache.hadoop.hive.ql.io.parquet."


@dataclass(frozen=True, slots=True)
class HiveColumn:
    """A column as Hive describes it."""

    name: str
    type: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class HivePartition:
    """An existing partition: the location of its files, and the columns they were written with."""

    location: str
    columns: Mapping[str, str]


class Metastore:
    """A connection to a Hive Metastore."""

    def __init__(self, jvm: Any, client: Any) -> None:
        self._jvm, self._client = jvm, client
        self._api = jvm.org.apache.hadoop.hive.metastore.api

    def make_database(self, name: str, location: str) -> None:
        """Create a database if it does not exist."""
        if name not in set(self._client.getAllDatabases()):
            comment = "Plain Parquet, written by questlog export."
            self._client.createDatabase(self._api.Database(name, comment, location, self._jvm.java.util.HashMap()))

    def make_table(
        self,
        database: str,
        name: str,
        columns: Sequence[HiveColumn],
        key: str,
        location: str,
        source: str,
        comment: str,
    ) -> None:
        """Create the external table, or update its columns; refuse a table that no export created."""
        if not self._client.tableExists(database, name):
            table = self._api.Table()
            table.setDbName(database)
            table.setTableName(name)
            table.setTableType("EXTERNAL_TABLE")
            table.setPartitionKeys([self._field(HiveColumn(key, "date", "Day of received_time, UTC."))])
            parameters = {"EXTERNAL": "TRUE", "parquet.compression": "SNAPPY", MARK: source, "comment": comment}
            table.setParameters(self._map(parameters))
            table.setSd(self._storage(columns, location))
            self._client.createTable(table)
            return
        table = self._client.getTable(database, name)
        if dict(table.getParameters()).get(MARK) != source:
            raise QuestlogError(
                f"table {database}.{name} exists, and was not created by an export of {source}",
                hint="--into another name",
            )
        existing = [HiveColumn(f.getName(), f.getType(), f.getComment() or "") for f in table.getSd().getCols()]
        if existing != list(columns):
            table.getSd().setCols([self._field(column) for column in columns])
            self._client.alter_table(database, name, table)

    def parts(self, database: str, name: str) -> dict[str, HivePartition]:
        """Return the partitions by day."""
        partitions = {}
        for part in self._client.listPartitions(database, name, -1):
            columns = {f.getName(): f.getType() for f in part.getSd().getCols()}
            partitions[part.getValues()[0]] = HivePartition(part.getSd().getLocation(), columns)
        return partitions

    def put(
        self, database: str, name: str, day: str, columns: Sequence[HiveColumn], location: str, *, new: bool
    ) -> None:
        """Switch a day to *location*, in one step."""
        part = self._api.Partition()
        part.setDbName(database)
        part.setTableName(name)
        part.setValues([day])
        part.setParameters(self._map({}))
        part.setSd(self._storage(columns, location))
        if new:
            self._client.add_partition(part)
        else:
            self._client.alter_partition(database, name, part)

    def drop(self, database: str, name: str, day: str) -> None:
        """Remove a day from the table; its files stay."""
        self._client.dropPartition(database, name, [day], False)

    def _storage(self, columns: Sequence[HiveColumn], location: str) -> Any:
        serde = self._api.SerDeInfo()
        serde.setSerializationLib(_FORMAT + "serde.ParquetHiveSerDe")
        serde.setParameters(self._map({"serialization.format": "1"}))
        storage = self._api.StorageDescriptor()
        storage.setCols([self._field(column) for column in columns])
        storage.setLocation(location)
        storage.setInputFormat(_FORMAT + "MapredParquetInputFormat")
        storage.setOutputFormat(_FORMAT + "MapredParquetOutputFormat")
        storage.setSerdeInfo(serde)
        storage.setNumBuckets(-1)
        storage.setBucketCols([])
        storage.setSortCols([])
        storage.setParameters(self._map({}))
        return storage

    def _field(self, column: HiveColumn) -> Any:
        return self._api.FieldSchema(column.name, column.type, column.comment)

    def _map(self, values: Mapping[str, str]) -> Any:
        java_map = self._jvm.java.util.HashMap()
        for key, value in values.items():
            java_map.put(key, value)
        return java_map


@contextmanager
def open_metastore(spark: Any, uris: str) -> Iterator[Metastore]:
    """Connect to the Metastore at *uris*; close the connection at the end."""
    hive = spark._jvm.org.apache.hadoop.hive
    configuration = hive.conf.HiveConf()
    configuration.set("hive.metastore.uris", uris)
    client = hive.metastore.HiveMetaStoreClient(configuration)
    try:
        yield Metastore(spark._jvm, client)
    finally:
        client.close()
