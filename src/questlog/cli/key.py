"""`questlog key`: the write keys that authorize senders."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from questlog.errors import QuestlogError

if TYPE_CHECKING:
    from questlog.collector.keys import Key
    from questlog.collector.keys.store import KeyStore


@click.group()
def key() -> None:
    """Create, list, rotate and revoke the collector's write keys.

    Give each source (a game client, a web page, a server) its own key. A key is shown once; only its SHA-256
    is stored. Running collectors pick up a change within a second.
    """


@key.command()
@click.argument("source")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Allow only this origin's pages; repeatable.")
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="Maximum events per second; 0 for no limit.")
@click.option("--secret", "signed", is_flag=True, help="Also create a secret; every request must be signed with it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(folder: Path, source: str, origins: tuple[str, ...], rate: float, signed: bool, as_json: bool) -> None:
    """Create a write key for SOURCE and print it. It is not shown again.

    \b
    questlog key create web --origin https://game.example
    """
    for origin in origins:
        _check_origin(origin)
    if not source.isascii() or not source.isprintable() or not 0 < len(source) <= 64:
        raise QuestlogError("a source name has 1 to 64 printable ASCII characters", hint="questlog key create web")
    created, text = _store(folder).create(source, origins, rate, signed=signed)
    _print([(created, text)], as_json)


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(folder: Path, as_json: bool) -> None:
    """List the keys: ids, sources and limits, not the keys themselves."""
    from questlog.cli.rows import table_text

    now = time.time_ns() // 1_000_000
    keys = [_row(each, now) for each in _store(folder).read()]
    if as_json:
        click.echo(json.dumps(keys))
    elif not keys:
        click.echo("no keys: the collector accepts events from localhost only; questlog key create SOURCE creates one")
    else:
        names = list(keys[0])
        rows = [[_text(each[name]) for name in names] for each in keys]
        click.echo(table_text(names, rows, [False] * len(names)))


@key.command()
@click.argument("name", metavar="ID|SOURCE")
@click.pass_obj
def revoke(folder: Path, name: str) -> None:
    """Revoke the key with this id, or all keys of this source, at once. Events already sent stay."""
    for key in _store(folder).end(name, time.time_ns() // 1_000_000):
        click.echo(f"revoked {key.id} of {key.source}")


@key.command()
@click.argument("name", metavar="ID|SOURCE")
@click.option(
    "--grace-hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Old key's remaining time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate(folder: Path, name: str, grace_hours: float, as_json: bool) -> None:
    """Create a new key with the same limits; the old one keeps working for a while, so that senders can switch."""
    ends = time.time_ns() // 1_000_000 + int(grace_hours * 3_600_000)
    rotated = _store(folder).rotate(name, ends)
    if not as_json:
        for old, new, _ in rotated:
            click.echo(f"{new.id} replaces {old.id}, which keeps working for {grace_hours:g} hours", err=True)
    _print([(new, text) for _, new, text in rotated], as_json)


def _store(folder: Path) -> KeyStore:
    from questlog.collector.keys.store import open_keys
    from questlog.settings import find_project

    return open_keys(find_project(folder).data)


def _print(created: list[tuple[Key, str]], as_json: bool) -> None:
    for each, text in created:
        if as_json:
            secret = {"secret": each.secret.decode()} if each.secret else {}
            click.echo(json.dumps({"id": each.id, "source": each.source, "key": text} | secret))
            continue
        click.echo(f"key {each.id} of {each.source}; it is not shown again:", err=True)
        click.echo(text)
        if each.secret:
            click.echo("its secret, for signing requests; it is not shown again:", err=True)
            click.echo(each.secret.decode())


def _row(each: Key, now_ms: int) -> dict[str, Any]:
    state = "in use"
    if each.ends_ms is not None:
        state = "revoked" if each.has_ended(now_ms) else f"until {_time(each.ends_ms)}"
    return {
        "id": each.id, "source": each.source, "state": state, "origins": list(each.origins), "rate": each.rate,
        "signed": bool(each.secret), "created": _time(each.created_ms),
    }  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms / 1000))


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
        raise QuestlogError(
            f"{origin!r} is not an origin", hint="give scheme and host without a path: https://game.example"
        )
