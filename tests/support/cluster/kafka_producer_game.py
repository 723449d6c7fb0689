"""A game's API server without questlog: Flask, a plain Kafka producer, flat JSON."""

import json
import os
from typing import Any

from flask import Flask, request
from kafka import KafkaProducer

app = Flask(__name__)
producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])


def log_to_kafka(event: dict[str, Any]) -> None:
    event.update(request.headers)
    producer.send(os.environ["TOPIC"], json.dumps(event).encode()).get(30)


@app.route("/")
def default_response() -> str:
    log_to_kafka({"event_type": "default"})
    return "This is the default response!\n"


@app.route("/purchase_a_sword")
def purchase_a_sword() -> str:
    log_to_kafka({"event_type": "purchase_sword"})
    return "Sword Purchased!\n"


@app.route("/join_guild")
def join_guild() -> str:
    log_to_kafka({"event_type": "join_guild"})
    return "Guild joined!\n"
