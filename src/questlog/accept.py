"""HOW events come in: bytes -> receipts and records. Pure; no web framework, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from questlog.plan import Plan
from questlog.record import can_be_id, encode_record, new_id

if TYPE_CHECKING:
    from questlog.shape.fields import Judged

NEVER_KEPT = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-write-key", "x-signature", "x-signature-time"}
)
"""Headers that hold secrets: no plan can keep them."""
OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected")
TOO_LARGE = "too_large"
"""The reason of an event that is refused for its size; it is never recorded, so no table knows it."""
_decoder = msgspec.json.Decoder()


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of one event: its id, and `accepted`, or `rejected` with the reason.

    Where nobody has judged it (`accept`), an accepted event may still turn out not to fit the plan: then it is in
    quarantine, with its reason. `receive` judges: `quarantined` says so at once, and `duplicate` that the id is
    known.
    """

    event_id: str
    outcome: str
    reason: str = ""
    field: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Receipts in the order sent, and the records to append before anybody is told."""

    receipts: Sequence[Receipt]
    records: Sequence[bytes]
    ids: Set[str] = frozenset()
    """The ids that clients chose, of events that are no duplicates."""


def accept(
    events: Iterable[bytes], plan: Plan, *, received_ms: int, headers: Mapping[str, str] | None = None
) -> Accepted:
    """Turn each event's bytes into a record; only events whose mode is `reject` can be refused.

    Headers outside the plan's allow-list are dropped here: they never reach a disk.
    """
    kept = keep_headers(plan, headers) if headers else {}
    strict = any(event.mode == "reject" for event in plan.events.values())
    receipts: list[Receipt] = []
    records: list[bytes] = []
    for raw in events:
        receipt, record = accept_one(raw, plan, received_ms=received_ms, kept=kept, strict=strict)
        receipts.append(receipt)
        if receipt.outcome == "accepted":
            records.append(record)
    return Accepted(receipts, records)


def accept_one(
    raw: bytes, plan: Plan, *, received_ms: int, kept: dict[str, str], strict: bool
) -> tuple[Receipt, bytes]:
    """Return an event's receipt and record. Only if *strict* is it looked for a type whose mode is `reject`."""
    event_id, chosen, valid = read_id(raw, plan)
    record = encode_record(raw, id=event_id, received_ms=received_ms, headers=kept, client_id=chosen, is_json=valid)
    return _judged(record, event_id, plan) if strict else Receipt(event_id, "accepted"), record


Known = Callable[[str], bool]
"""Client-chosen id -> whether an event of that id is known to be in the log."""


def receive(
    events: Iterable[bytes],
    plan: Plan,
    *,
    received_ms: int,
    kept: dict[str, str],
    sent_ms: int | None = None,
    known: Known = lambda _: False,
    max_event_bytes: int = 1 << 62,
) -> Accepted:
    """Do what `accept` does and judge each event by the plan as well, as landing will.

    What is quarantined, or a duplicate, is recorded like everything else: only what is `rejected` is not.
    """
    describe, glance = _judges()
    receipts: list[Receipt] = []
    records: list[bytes] = []
    here: set[str] = set()
    for raw in events:
        if len(raw) > max_event_bytes:
            receipts.append(Receipt("", "rejected", TOO_LARGE, "", f"max_event_bytes is {max_event_bytes}"))
            continue
        usual = glance(raw, plan)
        if usual is not None:
            chosen, valid = bool(usual[1]), True
            event_id = usual[1] or new_id()
        else:
            event_id, chosen, valid = read_id(raw, plan)
        record = encode_record(
            raw,
            id=event_id,
            received_ms=received_ms,
            headers=kept,
            client_id=chosen,
            sent_ms=sent_ms,
            is_json=valid,
            is_shallow=usual is not None,
        )
        receipt = Receipt(event_id, "accepted") if usual is not None else _receipt(event_id, describe(record, plan))
        if receipt.outcome != "rejected":
            if chosen and (event_id in here or known(event_id)):
                receipt = Receipt(event_id, "duplicate")
            elif chosen:
                here.add(event_id)
            records.append(record)
        receipts.append(receipt)
    return Accepted(receipts, records, here)


@cache
def _judges() -> tuple[Callable[[bytes, Plan], Judged], Callable[[bytes, Plan], tuple[Any, str | None] | None]]:
    """Return what judges a record, and what sees a usual event."""
    from questlog.shape import describe, glance  # imports Arrow, which a sender without receipts does not need

    return describe, glance


def keep_headers(plan: Plan, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the allow-listed headers under the plan's spelling, as UTF-8 text."""
    lower = {name.lower(): value for name, value in headers.items()}
    return {
        name: as_text(lower[name.lower()])
        for name in plan.headers
        if name.lower() in lower and name.lower() not in NEVER_KEPT
    }


def as_text(value: str) -> str:
    """WSGI hands header bytes over as latin-1; give them back as the UTF-8 they are, or escaped."""
    if value.isascii():
        return value
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
    for part in plan.envelope.event_id.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return (body, True, True) if can_be_id(body) else (new_id(), False, True)


def _judged(record: bytes, event_id: str, plan: Plan) -> Receipt:
    """Return the receipt of a record that may be of a type whose mode is `reject`."""
    from questlog.shape import describe  # imports Arrow, which a server without such types does not need

    receipt = _receipt(event_id, describe(record, plan))
    return receipt if receipt.outcome == "rejected" else Receipt(event_id, "accepted")


def _receipt(event_id: str, judged: Judged) -> Receipt:
    reject = judged.reject
    if reject is None:
        return Receipt(event_id, "accepted")
    refused = judged.event is not None and judged.event.mode == "reject"
    return Receipt(event_id, "rejected" if refused else "quarantined", reject.reason.value, reject.field, reject.detail)
