"""A game whose clients choose event ids, so that they can retry when an answer is lost."""

from flask import Flask

from questlog.flask import Questlog, track

app = Flask(__name__)
Questlog(app)


@app.route("/buy/<event_id>")
def buy(event_id: str) -> str:
    track("purchase_sword", event_id=event_id)
    return "Sword Purchased!\n"
