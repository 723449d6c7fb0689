"""`questlog key`: who may send events to the collector."""

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
    """Make, list, replace and revoke the write keys that the collector asks for.

    Each source (a game client, a web page, a server) gets its own. A key is shown once; what is kept is its
    SHA-256. Running collectors know of a change within a second.
    """


@key.command()
@click.argument("source")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Pages of this origin only; may be repeated.")
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="Events a second at most; 0 for no limit.")
@click.option("--secret", "signed", is_flag=True, help="Make a secret too: each request must be signed with it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(folder: Path, source: str, origins: tuple[str, ...], rate: float, signed: bool, as_json: bool) -> None:
    """Make a write key for SOURCE and print it, this once.

    \b
    questlog key create web --origin https://game.example
    """
    for origin in origins:
        _check_origin(origin)
    if not source.isascii() or not source.isprintable() or not 0 < len(source) <= 64:
        raise QuestlogError("a source is 1 to 64 printable ASCII characters", hint="questlog key create web")
    made, text = _store(folder).create(source, origins, rate, signed=signed)
    _print([(made, text)], as_json)


@key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(folder: Path, as_json: bool) -> None:
    """Show the keys: their ids, sources and limits, not the keys themselves."""
    from questlog.cli.rows import table_text

    now = time.time_ns() // 1_000_000
    found = [_shown(each, now) for each in _store(folder).read()]
    if as_json:
        click.echo(json.dumps(found))
    elif not found:
        click.echo("no keys: the collector takes events from this machine only; questlog key create SOURCE makes one")
    else:
        names = list(found[0])
        rows = [[_text(each[name]) for name in names] for each in found]
        click.echo(table_text(names, rows, [False] * len(names)))


@key.command()
@click.argument("name", metavar="ID|SOURCE")
@click.pass_obj
def revoke(folder: Path, name: str) -> None:
    """Refuse the key with this id, or all keys of this source, from now on. What they sent stays."""
    for ended in _store(folder).end(name, time.time_ns() // 1_000_000):
        click.echo(f"revoked {ended.id} of {ended.source}")


@key.command()
@click.argument("name", metavar="ID|SOURCE")
@click.option("--grace-hours", default=24.0, show_default=True, type=click.FloatRange(0), help="For the old one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate(folder: Path, name: str, grace_hours: float, as_json: bool) -> None:
    """Make a new key with the same limits; the old one works on for a while, so that senders can change."""
    ends = time.time_ns() // 1_000_000 + int(grace_hours * 3_600_000)
    found = _store(folder).rotate(name, ends)
    if not as_json:
        for old, new, _ in found:
            click.echo(f"{new.id} replaces {old.id}, which works for {grace_hours:g} hours more", err=True)
    _print([(new, text) for _, new, text in found], as_json)


def _store(folder: Path) -> KeyStore:
    from questlog.collector.keys.store import KeyStore
    from questlog.settings import find_project

    return KeyStore(find_project(folder).data / "keys.db")


def _print(made: list[tuple[Key, str]], as_json: bool) -> None:
    for each, text in made:
        if as_json:
            secret = {"secret": each.secret.decode()} if each.secret else {}
            click.echo(json.dumps({"id": each.id, "source": each.source, "key": text} | secret))
            continue
        click.echo(f"key {each.id} of {each.source}, shown this once:", err=True)
        click.echo(text)
        if each.secret:
            click.echo("its secret, to sign requests with, shown this once:", err=True)
            click.echo(each.secret.decode())


def _shown(each: Key, now_ms: int) -> dict[str, Any]:
    state = "in use" if each.ends_ms is None else "revoked" if each.is_over(now_ms) else f"until {_time(each.ends_ms)}"
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
        raise QuestlogError(f"{origin!r} is no origin", hint="scheme and host, no path: https://game.example")
