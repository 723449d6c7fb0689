"""HOW events come in: bytes -> receipts and records. Pure; no web framework, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from questlog.log import Entry
from questlog.plan import Plan
from questlog.record import encode_record, new_id
from questlog.shape import QUARANTINE, lookup, shape

MAX_EVENT_BYTES = 64 << 10
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one event: its id, and `accepted`, `quarantined` or `rejected` with the reason."""

    event_id: str
    outcome: str
    reason: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Receipts in the order sent, and the records to append before anybody is told."""

    receipts: Sequence[Receipt]
    records: Sequence[bytes]


def accept(
    events: Iterable[bytes], plan: Plan, *, received_ms: int, headers: Mapping[str, str] | None = None
) -> Accepted:
    """Turn each event's bytes into a record; only events whose mode is `reject` can be refused.

    Headers outside the plan's allow-list are dropped here: they never reach a disk.
    """
    kept = keep_headers(plan, headers or {})
    strict = any(event.mode == "reject" for event in plan.events.values())
    receipts: list[Receipt] = []
    records: list[bytes] = []
    for raw in events:
        event_id, chosen, valid = read_id(raw, plan)
        record = encode_record(raw, id=event_id, received_ms=received_ms, headers=kept, client_id=chosen, is_json=valid)
        receipt = _receipt(record, event_id, received_ms, plan, strict)
        receipts.append(receipt)
        if receipt.outcome != "rejected":
            records.append(record)
    return Accepted(receipts, records)


def keep_headers(plan: Plan, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the allow-listed headers under the plan's spelling, as UTF-8 text."""
    lower = {name.lower(): value for name, value in headers.items()}
    return {name: _text(lower[name.lower()]) for name in plan.headers if name.lower() in lower}


def _text(value: str) -> str:
    """WSGI hands header bytes over as latin-1; give them back as the UTF-8 they are, or escaped."""
    try:
        return value.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()


def read_id(raw: bytes, plan: Plan) -> tuple[str, bool, bool]:
    """Return (id, whether the client chose it, whether *raw* is JSON)."""
    try:
        body: Any = _decoder.decode(raw)
    except RecursionError:
        return new_id(), False, True
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return new_id(), False, False
    chosen = lookup(body, plan.envelope.event_id)
    if isinstance(chosen, str) and 0 < len(chosen) <= 200:
        return chosen, True, True
    return new_id(), False, True


def _receipt(record: bytes, event_id: str, received_ms: int, plan: Plan, strict: bool) -> Receipt:
    if not strict:
        return Receipt(event_id, "accepted")
    shaped = shape([Entry(0, 0, record, received_ms)], plan)
    if not shaped.count(QUARANTINE):
        return Receipt(event_id, "accepted")
    row = shaped.tables[QUARANTINE].to_pylist()[0]
    event = plan.events.get(row["event_type"] or "")
    outcome = "rejected" if event is not None and event.mode == "reject" else "quarantined"
    return Receipt(event_id, outcome, row["reason"], row["field"] or "")
