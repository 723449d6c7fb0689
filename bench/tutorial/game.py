"""The peer's game: the swords game as tutorials build it, which passes each request to Kafka without waiting.

Run: KAFKA=… TOPIC=… flask --app game run
"""

import json
import os

from flask import Flask, request
from kafka import KafkaProducer

app = Flask(__name__)
producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])


def send(event_type: str) -> None:
    event = {"event_type": event_type} | dict(request.headers)
    producer.send(os.environ["TOPIC"], json.dumps(event).encode())


@app.route("/")
def home() -> str:
    send("default")
    return "This is the default response!\n"


@app.route("/purchase_a_sword")
def purchase_a_sword() -> str:
    send("purchase_sword")
    return "Sword Purchased!\n"


@app.route("/join_guild")
def join_guild() -> str:
    send("join_guild")
    return "Guild joined!\n"
