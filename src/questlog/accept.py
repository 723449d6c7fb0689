"""The accept stage: validates what was sent, then encodes it once. Pure: no I/O, no clock, no web framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from questlog.plan import Event, Plan
from questlog.record import can_be_id, encode_record, new_id

NEVER_KEPT = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-write-key", "x-signature", "x-signature-time"}
)
"""Headers that hold secrets. No plan can keep them."""
OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected")
TOO_LARGE = "too_large"
"""The reason an event is rejected for its size. Such an event is never recorded, so no table holds this reason."""
UNLIMITED = 1 << 62
_decoder = msgspec.json.Decoder()


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of one event: its id, its outcome, and why unless it was accepted."""

    event_id: str
    outcome: str
    reason: str = ""
    field: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receipts in the order sent, and the records to make durable before anyone is answered."""

    receipts: Sequence[Receipt]
    records: Sequence[bytes]
    ids: Set[str] = frozenset()
    """Ids that clients chose, of the recorded events that are not duplicates."""


def accept(
    events: Iterable[bytes],
    plan: Plan,
    *,
    received_ms: int,
    headers: dict[str, str] | None = None,
    sent_ms: int | None = None,
    is_duplicate: Callable[[str], bool] = lambda event_id: False,
    max_event_bytes: int = UNLIMITED,
    validate: bool = True,
) -> Accepted:
    """Return a receipt for each event, and a record for each event that is not rejected.

    For each event:  1 check its size  2 validate it as landing will  3 check for a duplicate id  4 encode it, once.

    Quarantined events and duplicates are recorded like any other event. Without *validate*, only events that the
    plan rejects are detected: every other receipt is `accepted`, and landing quarantines or deduplicates the rest.
    *headers* hold only names from `header_names(plan)`. *is_duplicate* is asked for ids that clients chose.
    """
    validates = validate or can_reject(plan)
    precheck = _precheck() if validate else None
    receipts: list[Receipt] = []
    records: list[bytes] = []
    ids: set[str] = set()
    for raw in events:
        if len(raw) > max_event_bytes:
            receipts.append(Receipt("", "rejected", TOO_LARGE, "", f"max_event_bytes is {max_event_bytes}"))
            continue
        passed = None if precheck is None else precheck(raw, plan)
        if passed is not None:
            event_id, chosen, is_json = passed[1] or new_id(), bool(passed[1]), True
            receipt = Receipt(event_id, "accepted")
        else:
            event_id, chosen, is_json = read_id(raw, plan)
            receipt = _validated(raw, event_id, plan, validate) if validates else Receipt(event_id, "accepted")
        if receipt.outcome != "rejected":
            if chosen and validate:
                if event_id in ids or is_duplicate(event_id):
                    receipt = Receipt(event_id, "duplicate")
                else:
                    ids.add(event_id)
            record = encode_record(
                raw,
                id=event_id,
                received_ms=received_ms,
                headers=headers,
                client_id=chosen,
                sent_ms=sent_ms,
                is_json=is_json,
                is_shallow=passed is not None,
            )
            records.append(record)
        receipts.append(receipt)
    return Accepted(receipts, records, ids)


def accept_described(
    raw: bytes, plan: Plan, *, event_id: str | None, received_ms: int, headers: dict[str, str], can_reject: bool
) -> tuple[Receipt, bytes]:
    """Return the receipt and the record of an event that an application described itself.

    Its id, if it chose one, is *event_id* and need not be parsed out of *raw*. The event is validated only if the
    plan *can_reject* it. A rejected event has an empty record.
    """
    if can_reject:
        accepted = accept([raw], plan, received_ms=received_ms, headers=headers, validate=False)
        return accepted.receipts[0], accepted.records[0] if accepted.records else b""
    chosen, event_id = event_id is not None, event_id or new_id()
    record = encode_record(raw, id=event_id, received_ms=received_ms, headers=headers, client_id=chosen)
    return Receipt(event_id, "accepted"), record


def can_reject(plan: Plan) -> bool:
    """Return whether *plan* has event types whose mode is `reject`."""
    return any(event.mode == "reject" for event in plan.events.values())


def header_names(plan: Plan) -> list[str]:
    """Return the headers that *plan* keeps, in its spelling. Headers that hold secrets are never among them."""
    return [name for name in plan.headers if name.lower() not in NEVER_KEPT]


def as_text(value: str) -> str:
    """Return a header value as UTF-8 text, with invalid bytes escaped: WSGI decodes header bytes as latin-1."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()


def read_id(raw: bytes, plan: Plan) -> tuple[str, bool, bool]:
    """Return an event's id, whether the client chose it, and whether *raw* is JSON."""
    try:
        body: Any = _decoder.decode(raw)
    except RecursionError:
        return new_id(), False, True
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return new_id(), False, False
    for part in plan.envelope.event_id.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return (body, True, True) if can_be_id(body) else (new_id(), False, True)


def _validated(raw: bytes, event_id: str, plan: Plan, reports_quarantine: bool) -> Receipt:
    """Return the receipt that the plan's rules give an event."""
    from questlog.shape import validate  # imports Arrow, which an app whose plan rejects nothing does not need

    verdict = validate(raw, plan)
    reject = verdict.reject
    if reject is None:
        return Receipt(event_id, "accepted")
    is_rejected = verdict.event is not None and verdict.event.mode == "reject"
    if not is_rejected and not reports_quarantine:
        return Receipt(event_id, "accepted")
    outcome = "rejected" if is_rejected else "quarantined"
    return Receipt(event_id, outcome, reject.reason.value, reject.field, reject.detail)


@cache
def _precheck() -> Callable[[bytes, Plan], tuple[Event, str | None] | None]:
    from questlog.shape import precheck  # as above

    return precheck
