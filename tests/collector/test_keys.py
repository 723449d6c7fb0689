"""Write keys: which requests they authorize, and that no key ever appears in a response, a log line or a table."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from questlog.collector.keys import new_key, sign
from questlog.collector.keys.store import KeyStore
from support.collector_process import Answered, Collector
from support.waiting import until

BODY = '{"event_type": "join_guild", "guild": "%s"}'
PAGE = "https://game.example"


@dataclass
class Keys:
    """A project's keys by kind, and the collector that requires them."""

    collector: Collector
    texts: dict[str, str]
    secret: bytes
    other_secret: bytes

    def post(self, headers: dict[str, str], *, body: str = BODY % "keys", path: str = "/v1/events") -> Answered:
        return self.collector.request("POST", path, body, headers)

    def signed(self, body: str, seconds: float | str, secret: bytes | None = None) -> dict[str, str]:
        """Return the headers of a signed request."""
        text = seconds if isinstance(seconds, str) else str(int(seconds))
        signature = sign(secret or self.secret, text, body.encode())
        return {"x-write-key": self.texts["signed"], "x-signature-time": text, "x-signature": signature}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    root = tmp_path_factory.mktemp("keys")
    plan = '[game]\nname = "g"\n[headers]\nkeep = ["X-Questlog-Source"]\n'
    plan += '[events.join_guild.fields]\nguild = { type = "string" }\n'
    store, other = KeyStore(root / ".questlog" / "keys.db"), KeyStore(tmp_path_factory.mktemp("other") / "keys.db")
    texts = {"game": store.create("game", (), 0, signed=False)[1]}
    texts["page"] = store.create("page", (PAGE,), 0, signed=False)[1]
    signed, texts["signed"] = store.create("server", (), 0, signed=True)
    other_signed, texts["other signed"] = store.create("other server", (), 0, signed=True)
    texts["slow"] = store.create("slow", (), 5, signed=False)[1]
    texts["revoked"] = store.create("gone", (), 0, signed=False)[1]
    store.end("gone", int(time.time() * 1000))
    texts["rotated"] = store.create("rotated", (), 0, signed=False)[1]
    [(_, _, texts["successor"])] = store.rotate("rotated", int(time.time() * 1000) + 3_600_000)
    texts["replaced"] = store.create("replaced", (), 0, signed=False)[1]
    [(_, _, texts["replacing"])] = store.rotate("replaced", int(time.time() * 1000))
    texts["foreign"] = other.create("game", (), 0, signed=False)[1]
    texts["unknown"] = new_key()
    with Collector(root, plan=plan) as collector:
        yield Keys(collector, texts, signed.secret, other_signed.secret)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(key: str, password: str = "") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{key}:{password}".encode()).decode()}


def header(key: str) -> dict[str, str]:
    return {"x-write-key": key}


CARRIERS = {"bearer": bearer, "basic": basic, "header": header}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("which", ["game", "rotated", "successor", "replacing"])
def test_a_valid_key_authorizes_a_request(keys: Keys, which: str, carrier: str) -> None:
    answer = keys.post(CARRIERS[carrier](keys.texts[which]), body=BODY % f"{which} {carrier}")
    assert (answer.status, answer.outcomes) == (200, ["accepted"])
    source = {"successor": "rotated", "replacing": "replaced"}.get(which, which)
    sources = keys.collector.sql(f"select x_questlog_source from join_guild where guild = '{which} {carrier}'")
    assert sources == [(source,)]


SPOILS: dict[str, Callable[[str], str]] = {
    "without its last character": lambda key: key[:-1],
    "without its first": lambda key: key[1:],
    "cut in half": lambda key: key[: len(key) // 2],
    "longer": lambda key: key + "A",
    "in upper case": str.upper,
    "with another letter": lambda key: key[:9] + ("A" if key[9] != "A" else "B") + key[10:],
    "twice": lambda key: key + key,
    "with a space": lambda key: key[:20] + " " + key[20:],
    "only its prefix": lambda key: "qlk_",
    "a quote": lambda key: "' or 1=1 --",
    "a percent escape": lambda key: "%71" + key[1:],
    "very long": lambda key: "qlk_" + "A" * 5000,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_malformed_key_is_refused(keys: Keys, spoil: str, carrier: str) -> None:
    answer = keys.post(CARRIERS[carrier](SPOILS[spoil](keys.texts["game"])))
    assert_refused(keys, answer, "truncated")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("which", "expected"),
    [("unknown", "unknown"), ("foreign", "unknown"), ("revoked", "revoked"), ("replaced", "revoked")],
)
def test_an_unknown_or_revoked_key_is_refused(keys: Keys, which: str, expected: str, carrier: str) -> None:
    assert_refused(keys, keys.post(CARRIERS[carrier](keys.texts[which])), expected)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Digest x"},
        {"authorization": basic("")["authorization"]},
        {"x-write-key": ""},
        {"x-questlog-source": "game"},
        {"cookie": "key=x"},
    ],
    ids=str,
)
def test_a_request_without_a_key_is_refused_with_a_hint(keys: Keys, headers: dict[str, str]) -> None:
    answer = keys.post(headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["hint"]


def test_a_key_sent_as_a_password_is_ignored(keys: Keys) -> None:
    assert keys.post({"authorization": basic("user", keys.texts["game"])["authorization"]}).status == 401


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/v1/events", "/v1/alias"])
def test_every_endpoint_for_events_requires_a_key(keys: Keys, path: str) -> None:
    assert keys.post({}, path=path).status == 401
    assert keys.collector.request("GET", "/v1/pixel.gif?event_type=join_guild").status == 401


def test_the_pixel_takes_its_key_from_the_query(keys: Keys) -> None:
    good, bad = keys.texts["game"], keys.texts["revoked"]
    assert keys.collector.request("GET", f"/v1/pixel.gif?event_type=join_guild&key={good}").status == 200
    assert keys.collector.request("GET", f"/v1/pixel.gif?event_type=join_guild&key={bad}").status == 401


def test_a_sender_cannot_set_its_source(keys: Keys) -> None:
    keys.post(bearer(keys.texts["game"]) | {"x-questlog-source": "forged"}, body=BODY % "forged")
    assert keys.collector.sql("select x_questlog_source from join_guild where guild = 'forged'") == [("game",)]


# -- signatures -------------------------------------------------------------------------------------


def test_a_signature_can_be_used_once(keys: Keys) -> None:
    body = BODY % "signed once"
    headers = keys.signed(body, time.time())
    assert keys.post(headers, body=body).status == 200
    assert_refused(keys, keys.post(headers, body=body), "used before")
    upper = headers | {"x-signature": headers["x-signature"].upper()}
    assert_refused(keys, keys.post(upper, body=body), "used before")
    assert keys.collector.sql("select count(*) from join_guild where guild = 'signed once'") == [(1,)]


@pytest.mark.parametrize("off", [-3600, -301, 302, 86_400 * 365])
def test_a_signature_with_another_time_is_refused(keys: Keys, off: int) -> None:
    assert_refused(keys, keys.post(keys.signed(BODY % "keys", time.time() + off)), "X-Signature-Time")


@pytest.mark.parametrize("seconds", ["now", "-5", "1e9", "", "9" * 30, "1700000000.5"])
def test_a_signature_with_an_invalid_time_is_refused(keys: Keys, seconds: str) -> None:
    assert keys.post(keys.signed(BODY % "keys", seconds)).status == 401


@pytest.mark.parametrize("spoil", ["body", "time", "secret", "none", "other key", "garbage", "not ascii"])
def test_a_signature_of_another_request_is_refused(keys: Keys, spoil: str) -> None:
    body, now = BODY % f"spoiled {spoil}", int(time.time())
    headers = keys.signed(body, now, keys.other_secret if spoil == "secret" else None)
    if spoil == "time":
        headers["x-signature-time"] = str(now - 1)
    elif spoil == "none":
        del headers["x-signature"]
    elif spoil == "other key":
        headers["x-write-key"] = keys.texts["other signed"]
    elif spoil in ("garbage", "not ascii"):
        headers["x-signature"] = "zz" if spoil == "garbage" else "\xe9" * 64
    answer = keys.post(headers, body=body + " " if spoil == "body" else body)
    assert_refused(keys, answer, "sign")
    assert keys.collector.sql(f"select count(*) from join_guild where guild = 'spoiled {spoil}'") == [(0,)]


# -- pages and rates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://game.example", PAGE + ":8443", PAGE + ".evil.example", "null", PAGE + "/"],
)
def test_a_page_of_another_origin_is_refused(keys: Keys, origin: str) -> None:
    answer = keys.post(bearer(keys.texts["page"]) | {"origin": origin})
    assert (answer.status, answer.json["error"]) == (403, "forbidden_origin")


def test_a_page_of_the_right_origin_may_send_and_read_its_receipt(keys: Keys) -> None:
    answer = keys.post(bearer(keys.texts["page"]) | {"origin": PAGE})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    asked = keys.collector.request(
        "OPTIONS", "/v1/events", None, {"origin": PAGE, "access-control-request-method": "POST"}
    )
    assert (asked.status, asked.headers["access-control-allow-methods"]) == (204, "POST")
    assert "x-write-key" in asked.headers["access-control-allow-headers"]


def test_an_exceeded_rate_gets_a_retry_after(keys: Keys) -> None:
    answers = [keys.post(bearer(keys.texts["slow"])) for _ in range(12)]
    statuses = [answer.status for answer in answers]
    assert 5 <= statuses.count(200) <= 8 and statuses[-1] == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    until(lambda: keys.post(bearer(keys.texts["slow"])).status == 200, "it may send again")
    assert keys.post(bearer(keys.texts["game"])).status == 200, "other keys are not affected"


# -- the command ------------------------------------------------------------------------------------


def test_the_command_creates_lists_rotates_and_revokes_keys(keys: Keys) -> None:
    made = json.loads(questlog(keys, "create", "tool", "--json"))
    assert "tool" in questlog(keys, "list") and made["key"] not in questlog(keys, "list", "--json")
    until(lambda: keys.post(bearer(made["key"])).status == 200, "the running collector accepts the new key")
    after = json.loads(questlog(keys, "rotate", made["id"], "--grace-hours", "0", "--json"))
    until(lambda: keys.post(bearer(made["key"])).status == 401, "the old key is refused")
    assert keys.post(bearer(after["key"])).status == 200
    questlog(keys, "revoke", "tool")
    until(lambda: keys.post(bearer(after["key"])).status == 401, "the revoked key is refused")


def test_an_unreadable_key_store_authorizes_no_one_and_is_a_503(tmp_path: Path) -> None:
    with Collector(tmp_path) as collector:
        assert collector.send({"event_type": "join_guild"}).status == 200, "there are no keys yet"
        (tmp_path / ".questlog" / "keys.db").write_bytes(b"no keys " * 1000)
        until(lambda: collector.send({"event_type": "join_guild"}).status == 503, "events are refused")
        for _ in range(20):
            answer = collector.send({"event_type": "join_guild"})
            assert (answer.status, "keys.db" in answer.json["message"]) == (503, True)
            assert int(answer.headers["retry-after"]) > 0
        assert collector.request("GET", "/healthz").status == 200
        command = [sys.executable, "-m", "questlog", "-C", str(tmp_path), "collect", "--port", "0"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert (
            ran.returncode == 1
            and "cannot read the write keys in keys.db" in ran.stderr
            and "Traceback" not in ran.stderr
        )
        (tmp_path / ".questlog" / "keys.db").unlink()
        until(lambda: collector.send({"event_type": "join_guild"}).status == 200, "events are accepted again")


def test_zz_no_key_is_ever_repeated_or_stored(keys: Keys) -> None:
    """Runs last, once the project holds everything that the other tests sent."""
    tables = keys.collector.sql("select cast(columns(*) as varchar) from join_guild")
    tables += keys.collector.sql("select cast(columns(*) as varchar) from quarantine")
    shown = json.dumps(tables) + keys.collector.output()
    files = [path.read_bytes() for path in keys.collector.root.rglob("*") if path.is_file()]
    secrets = [keys.secret.decode(), keys.other_secret.decode()]
    assert len(tables) > 12
    for name, text in keys.texts.items():
        assert text not in shown and not any(text.encode() in each for each in files), name
    assert not any(secret in shown for secret in secrets)
    mode = os.stat(keys.collector.root / ".questlog" / "keys.db").st_mode & 0o777
    assert mode == 0o600


def questlog(keys: Keys, *arguments: str) -> str:
    command: list[Any] = [sys.executable, "-m", "questlog", "-C", str(keys.collector.root), "key", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def assert_refused(keys: Keys, answer: Answered, expected: str) -> None:
    """Check for a 401 that helps and repeats no secret."""
    assert answer.status == 401, answer.body
    assert expected in answer.json["message"] + answer.json["hint"]
    whole = answer.body.decode() + str(answer.headers)
    assert not any(text in whole for text in (*keys.texts.values(), keys.secret.decode()))
