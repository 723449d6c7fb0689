"""A Flask app to send requests to, and the events it recorded."""

import json
from typing import Any

from flask import Flask

import questlog

PLAN = """
[headers]
keep = ["Host", "X-Client"]

[routes]
"POST /shop/<item>" = "purchase"
"GET /api/look/<int:level>" = "look"

[events.purchase.fields]
item = "string"
price = "double"
gift = "bool"

[events.look.fields]
level = "int"
x = "int"

[events.join_guild.fields]
guild = "string"

[events.strict]
mode = "reject"
[events.strict.fields]
level = { type = "int", required = true }
"""


def events(app: Flask) -> list[dict[str, Any]]:
    """Return every recorded event as it was sent, in order."""
    rows = questlog.open(app.config["QUESTLOG_PROJECT"]).sql(
        "select raw_event from (select event_id, raw_event from events union all"
        " select event_id, raw_event from quarantine) order by event_id"
    )
    return [json.loads(raw) for (raw,) in rows.rows()]


def expire_plan(app: Flask) -> None:
    """Make the app read its plan again at the next event."""
    app.extensions["questlog"]._plan_expires = 0.0


def full(app: Flask) -> None:
    app.config["QUESTLOG_MIN_FREE_MB"] = 1 << 30
    app.config["QUESTLOG_RETRY_AFTER_SECONDS"] = 7
