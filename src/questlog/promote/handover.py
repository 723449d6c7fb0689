"""The handover of a log to a cluster: each step is one transaction in the spool's database.

copying -> sealing -> sealed.  Until `sealed` only the promotion forwards. From `sealing` on the log is kept for the
target, which may already claim to hold what was copied.
"""

from __future__ import annotations

from collections.abc import Mapping

from questlog.log import Position
from questlog.log.kafka.spool import Handover, Spool


def begin(spool: Spool, handover: Handover, held: Position) -> None:
    """Begin a handover, or begin it again: the target gets *held* as tables, and what follows through Kafka."""
    with spool.rewriting() as db:
        for table in ("sent", "landed", "marks"):
            db.execute(f"delete from {table}")
        for table in ("sent", "landed"):
            db.executemany(f"insert into {table} values (?, ?)", list(held.items()))
        row = (handover.id, handover.target, handover.state)
        db.execute("insert or replace into handover values (1, ?, ?, ?)", row)


def advance(spool: Spool, state: str, held: Mapping[int, int] | None = None) -> None:
    """Move the handover to *state*; *held* is how much of each partition the target is known to hold."""
    with spool.rewriting() as db:
        db.execute("update handover set state = ?", (state,))
        for table in ("sent", "landed"):
            db.executemany(
                f"insert into {table} values (?, ?)"
                " on conflict (partition) do update set next = max(next, excluded.next)",
                list((held or {}).items()),
            )


def abandon(spool: Spool) -> None:
    """Cancel the handover: the log belongs to the embedded profile alone again."""
    with spool.rewriting() as db:
        for table in ("sent", "landed", "marks", "handover"):
            db.execute(f"delete from {table}")
