"""Events recorded from code: `track`, batches, refusals, signals and captures."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.typing import ResponseReturnValue

import questlog
from questlog.errors import QuestlogError
from questlog.flask import (
    EventRejected,
    LogUnavailable,
    Questlog,
    batch,
    capture_events,
    event_accepted,
    event_refused,
    event_rejected,
    track,
)
from support.flask_shop import events, full

# -- track ---------------------------------------------------------------------------------------


def test_track_works_anywhere_in_a_request(app: Flask) -> None:
    app.before_request(lambda: track("join_guild", guild="before") and None)
    app.teardown_request(lambda error: track("join_guild", guild="teardown") and None)

    @app.errorhandler(404)
    def lost(error: Exception) -> ResponseReturnValue:
        track("join_guild", guild="lost")
        return "lost", 404

    app.test_client().get("/nowhere")
    assert [e["guild"] for e in events(app)] == ["before", "lost", "teardown"]


def test_track_works_in_an_app_context_and_raises_elsewhere(app: Flask) -> None:
    with app.app_context():
        event_id = track("join_guild", player_id="ann", session_id="s", guild="night job")
    assert events(app) == [{"event_type": "join_guild", "player_id": "ann", "session_id": "s", "guild": "night job"}]
    assert questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select event_id from join_guild").rows() == [(event_id,)]
    with pytest.raises(QuestlogError, match="inside a request or an app context"):
        track("join_guild")


def test_an_app_without_the_extension_gets_an_error(tmp_path: Path) -> None:
    with Flask("bare").app_context(), pytest.raises(QuestlogError, match="this app has no Questlog extension"):
        track("join_guild")


def test_fields_cannot_replace_what_the_server_sets(app: Flask) -> None:
    with app.app_context():
        track("join_guild", event_type="look", received_time="1999-01-01", guild="wolves")  # type: ignore[arg-type]
    (row,) = (
        questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select event_type, received_time from join_guild").dicts()
    )
    assert row["event_type"] == "join_guild" and row["received_time"].year > 2000


def test_an_event_with_a_chosen_id_counts_once(app: Flask) -> None:
    with app.app_context():
        assert track("join_guild", event_id="once") == "once"
        track("join_guild", event_id="once")
    assert len(events(app)) == 1


@pytest.mark.parametrize("event_id", ["", "x" * 201, 7])
def test_an_invalid_id_raises_an_error_with_a_sentence(app: Flask, event_id: Any) -> None:
    with app.app_context(), pytest.raises(QuestlogError, match="1 to 200 characters"):
        track("join_guild", event_id=event_id)


def test_a_value_that_json_cannot_hold_raises_an_error_with_a_sentence(app: Flask) -> None:
    with app.app_context(), pytest.raises(QuestlogError, match="join_guild"):
        track("join_guild", guild=object())


def test_events_are_encoded_in_the_envelope_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        '[envelope]\nevent_type = "meta.name"\nplayer_id = "who"\nfields = "data"\n[events.hit.fields]\nlevel = "int"\n'
    )
    app = Flask("game")
    Questlog(app, project=tmp_path)
    with app.app_context():
        track("hit", player_id="ann", level=3)
    project = questlog.open(tmp_path)
    assert project.sql("select player_id, level, raw_event from hit").rows() == [
        ("ann", 3, '{"data":{"level":3},"who":"ann","meta":{"name":"hit"}}')
    ]


# -- several events in one commit ----------------------------------------------------------------


def commits(app: Flask) -> list[int]:
    """Return how many records each commit of the log holds."""
    folder = questlog.open(app.config["QUESTLOG_PROJECT"]).project.log_folder
    counts = []
    for file in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(file)) as connection:
            counts += [count for (count,) in connection.execute("select count from batches order by first")]
    return counts


def test_a_batch_is_one_commit(app: Flask) -> None:
    def view() -> str:
        with batch():
            track("join_guild", guild="wolves")
            with batch():
                track("look", level=3)
        track("join_guild", guild="bears")
        return "ok"

    app.add_url_rule("/guild", view_func=view)
    assert app.test_client().get("/guild").status_code == 200
    assert [e["event_type"] for e in events(app)] == ["join_guild", "look", "join_guild"]
    assert commits(app) == [2, 1]


def test_marks_and_routes_of_one_request_are_one_commit(app: Flask) -> None:
    view = questlog.event("join_guild")(questlog.event("purchase")(lambda level: "ok"))
    app.add_url_rule("/api/look/<int:level>", "look", view)
    app.test_client().get("/api/look/3")
    assert sorted(e["event_type"] for e in events(app)) == ["join_guild", "look", "purchase"]
    assert commits(app) == [3]


def test_a_batch_is_all_or_nothing(app: Flask) -> None:
    with app.app_context():
        with pytest.raises(EventRejected), batch():
            track("join_guild")
            track("strict", level="x")
        with pytest.raises(ZeroDivisionError), batch():
            track("join_guild")
            _ = 1 / 0
        track("join_guild", guild="after")
    assert [e.get("guild") for e in events(app)] == ["after"]


def test_a_batch_that_the_log_refuses_is_503(app: Flask) -> None:
    full(app)

    def view() -> str:
        with batch():
            track("join_guild")
        return "never"

    app.add_url_rule("/guild", view_func=view)
    response = app.test_client().get("/guild")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")


# -- refusals ------------------------------------------------------------------------------------


def test_a_log_that_refuses_is_503_with_retry_after(app: Flask) -> None:
    full(app)
    app.add_url_rule("/marked", "marked", questlog.event("join_guild")(lambda: Response(iter(["a"]))))
    app.add_url_rule("/tracked", "tracked", lambda: track("join_guild"))
    for path in ("/marked", "/tracked"):
        response = app.test_client().get(path)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
        assert "watermark" in response.text and "Traceback" not in response.text
    assert events(app) == []


def test_an_unwritable_data_folder_is_503(app: Flask, tmp_path: Path) -> None:
    (tmp_path / ".questlog").write_text("not a folder")
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    response = app.test_client().get("/guild")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "Traceback" not in response.text
    (tmp_path / ".questlog").unlink()
    assert app.test_client().get("/guild").status_code == 200, "it recovers without a restart"


def test_a_replaced_response_is_closed(app: Flask) -> None:
    full(app)
    closed: list[bool] = []

    def view() -> Response:
        response = Response(iter(["a", "b"]))
        response.call_on_close(lambda: closed.append(True))
        return response

    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(view))
    assert app.test_client().get("/guild").status_code == 503
    assert closed == [True]


def test_a_view_can_handle_a_refusal_itself(app: Flask) -> None:
    full(app)

    def view() -> str:
        try:
            track("join_guild")
        except LogUnavailable:
            return "kept for later"
        return "recorded"

    app.add_url_rule("/guild", view_func=view)
    assert app.test_client().get("/guild").text == "kept for later"


def test_a_rejected_event_is_422_and_nothing_is_recorded(app: Flask) -> None:
    app.add_url_rule("/strict", view_func=lambda: track("strict", level="x"))
    response = app.test_client().get("/strict")
    assert (response.status_code, response.text) == (422, "wrong_type level 'x' is not a valid int\n")
    with app.app_context(), pytest.raises(EventRejected) as refused:
        track("strict")
    assert (refused.value.reason, refused.value.field) == ("missing_field", "level")
    assert events(app) == []


def test_a_rejected_event_of_a_marked_view_leaves_its_response_alone(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_url_rule("/strict", view_func=questlog.event("strict")(lambda: "done"))
    assert app.test_client().get("/strict?level=x").text == "done"
    assert "rejected=wrong_type field=level" in caplog.text
    assert events(app) == []


# -- signals and captures ------------------------------------------------------------------------


def test_signals_report_the_outcome_of_each_event(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, str]] = []

    def accepted(sender: Flask, event: dict[str, Any], receipt: Any) -> None:
        received.append(("accepted", event["event_type"]))
        assert sender is app and receipt.event_id

    def rejected(sender: Flask, event: dict[str, Any], receipt: Any) -> None:
        received.append(("rejected", receipt.reason))

    def refused(sender: Flask, event: dict[str, Any], error: Exception) -> None:
        received.append(("refused", event["event_type"]))

    with (
        event_accepted.connected_to(accepted, app),
        event_rejected.connected_to(rejected, app),
        event_refused.connected_to(refused, app),
        app.app_context(),
    ):
        track("join_guild")
        with pytest.raises(EventRejected):
            track("strict")
        log = app.extensions["questlog"].pipeline.log
        monkeypatch.setattr(log, "min_free_bytes", 1 << 60)
        monkeypatch.setattr(log, "_checked", 0.0)  # as if it had not checked the disk for a while
        with pytest.raises(LogUnavailable):
            track("join_guild")
    assert received == [("accepted", "join_guild"), ("rejected", "missing_field"), ("refused", "join_guild")]


def test_captured_events_are_validated_and_not_written(app: Flask, questlog_events: Any) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    with capture_events(app) as captured:
        app.test_client().post("/shop/sword", json={"price": "cheap"})
        with questlog_events(app) as inner, app.app_context():
            track("join_guild")
    assert captured == [{"event_type": "purchase", "item": "sword", "price": "cheap"}] and len(inner) == 1
    assert [(e["item"], reject.reason, reject.field) for e, reject in captured.bad] == [
        ("sword", "wrong_type", "price")
    ]
    assert not (Path(app.config["QUESTLOG_PROJECT"]) / ".questlog").exists()
