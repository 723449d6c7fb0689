"""The game of the fault tests: each request records one event and answers with its id."""

from flask import Flask

from questlog.flask import Questlog, track

app = Flask(__name__)
Questlog(app)


@app.route("/purchase_a_sword")
def purchase_a_sword() -> str:
    return track("purchase_sword", price="1.50")


@app.route("/purchase_a_sword/<event_id>")
def purchase_once(event_id: str) -> str:
    """Without an answer the client sends the same id again."""
    return track("purchase_sword", event_id=event_id)


@app.route("/join_guild")
def join_guild() -> str:
    return track("join_guild", guild="wolves")


@app.route("/mistake")
def mistake() -> str:
    """The plan does not have this type: the event belongs in quarantine."""
    return track("unheard_of")
