"""What the forwarder and the cluster's lander agree on: the headers of a forwarded record, and the consumer group."""

from __future__ import annotations

from collections.abc import Mapping

from questlog.log import Entry, Gap, Position

GROUP = "questlog"
"""The consumer group whose committed offsets record how much of the topic the tables hold."""
SPOOL, SEQUENCE, GAP = "spool", "sequence", "gap"
"""Headers of a forwarded record: its spool partition, its sequence there; of a lost part, how many records it was."""

Headers = list[tuple[str, str | bytes | None]]


def spool_partition(spool: str, partition: int) -> str:
    """Return the name of one partition of a spool: the record's key, the header `SPOOL`, a key of a checkpoint."""
    return f"{spool}.{partition}"


def spool_sequences(spool: str, position: Position) -> dict[str, int]:
    """Return a position in the spool's log as a checkpoint holds it."""
    return {spool_partition(spool, partition): offset for partition, offset in position.items()}


def spool_position(spool: str, sequences: Mapping[str, int]) -> dict[int, int]:
    """Return the position in the spool's log of a checkpoint with these *sequences*."""
    start = spool_partition(spool, 0).removesuffix("0")
    return {int(name.removeprefix(start)): n for name, n in sequences.items() if name.startswith(start)}


def sequence_of(item: Entry | Gap) -> int:
    """Return the sequence of a record; that of a lost part is its last record's."""
    return item.offset if isinstance(item, Entry) else item.until - 1


def encode_item(name: str, item: Entry | Gap) -> tuple[bytes, Headers]:
    """Return value and headers of a record of the spool partition *name*.

    A lost part becomes one record, and lands as one row in quarantine: a sentence, with its length as a header.
    """
    headers: Headers = [(SPOOL, name.encode()), (SEQUENCE, str(sequence_of(item)).encode())]
    if isinstance(item, Entry):
        return item.value, headers
    headers.append((GAP, str(item.until - item.first).encode()))
    sentence = f"offsets {item.first} to {item.until - 1} of spool partition {item.partition}: {item.reason}"
    return sentence.encode(), headers
