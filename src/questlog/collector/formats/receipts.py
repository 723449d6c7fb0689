"""The JSON body that answers a request with events: how many had which outcome, and a receipt for each."""

from __future__ import annotations

import msgspec

from questlog.accept import OUTCOMES, Accepted, Receipt
from questlog.collector.http import Request, Response

_encoder = msgspec.json.Encoder()


class Receipts(msgspec.Struct, frozen=True, gc=False):
    """Counts by outcome, and the receipts in the order in which the events were sent."""

    accepted: int
    duplicate: int
    quarantined: int
    rejected: int
    receipts: list[Receipt]


def answer_receipts(request: Request, accepted: Accepted) -> Response:
    """Return the receipts; with `Prefer: return=minimal`, only those of events that were not simply accepted."""
    receipts = list(accepted.receipts)
    outcomes = [receipt.outcome for receipt in receipts]
    counted, duplicate, quarantined, rejected = map(outcomes.count, OUTCOMES)
    headers: tuple[bytes, ...] = ()
    if b"prefer" in request.headers and "return=minimal" in request.header(b"prefer"):
        receipts = [receipt for receipt in receipts if receipt.outcome != "accepted"]
        headers = (b"preference-applied: return=minimal",)
    body = _encoder.encode(Receipts(counted, duplicate, quarantined, rejected, receipts))
    return Response(200, body, headers=headers)
