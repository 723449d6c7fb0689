"""A game's API server. The lines that end in `# questlog` make it record events."""

from flask import Flask

from questlog.flask import Questlog  # questlog

app = Flask(__name__)
Questlog(app)  # questlog: plan.toml beside this file maps the routes to events


@app.route("/")
def default_response() -> str:
    return "This is the default response!\n"


@app.route("/purchase_a_sword")
def purchase_a_sword() -> str:
    return "Sword Purchased!\n"


@app.route("/join_guild")
def join_guild() -> str:
    return "Guild joined!\n"
