"""A worker imports everything it needs before the first request."""

import subprocess
import sys

PROGRAM = """
import sys
from questlog.accept import accept
from questlog.collector.app import warm_up
from questlog.plan.load import parse_plan

plan = parse_plan('[events.hit.fields]\\ndamage = "int"\\nat = "timestamp"')
warm_up(plan)
before = set(sys.modules)
events = [b'{"event_type":"hit","damage":1,"at":"2026-11-24T10:00:00Z"}', b'{"event_type":"hit","damage":"x"}', b'{']
print([receipt.outcome for receipt in accept(events, plan, received_ms=1).receipts])
print(sorted(set(sys.modules) - before))
"""


def test_the_first_events_trigger_no_imports() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["['accepted', 'quarantined', 'quarantined']", "[]"]
