"""Servers and landers are killed at random moments: every event answered with 2xx is in SQL exactly once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from support.game_processes import Clients, ForkServer, Game, Killer, Process, assert_landed, assert_promise

KILLS = int(os.environ.get("QUESTLOG_DRILL", "120"))
SEED = int(os.environ.get("QUESTLOG_SEED", random.randrange(10**6)))
SERVERS = {"swords": "gunicorn", "shop": "flask"}


@pytest.mark.timeout(600 + 2 * KILLS)
def test_killing_servers_and_landers_loses_and_duplicates_nothing(fork_server: ForkServer, tmp_path: Path) -> None:
    """Server and lander of two games under load are killed; queries in between are right as well."""
    print(f"\nseed {SEED}: {KILLS} kills")
    games = [Game(fork_server, tmp_path / app, app) for app in SERVERS]
    clients = [Clients(game, seed=SEED + n) for n, game in enumerate(games)]
    killers = [killer for n, game in enumerate(games) for killer in start_killers(game, SEED + n)]
    try:
        while any(killer.is_alive() for killer in killers):
            for game, client in zip(games, clients, strict=True):
                acknowledged = set(client.acknowledged)
                known = game.marks()
                assert_promise(known, acknowledged, set(client.sent), "in the next query")
            done = sum(killer.kills for killer in killers)
            print(f"{done} kills, {sum(len(c.acknowledged) for c in clients)} acknowledged", flush=True)
    finally:
        for stopped in (*killers, *clients):
            stopped.stop()
    assert sum(killer.kills for killer in killers) >= KILLS
    for game, client in zip(games, clients, strict=True):
        landed = game.ledger()["landed"]
        assert landed > len(client.acknowledged) / 4, "too few landed events to prove anything"
        assert_promise(game.marks(), client.acknowledged, client.sent, "before the last landing")
        game.run("land")
        assert_promise(game.marks(), client.acknowledged, client.sent, "after the last landing")
        assert_landed(game, client.acknowledged, client.sent)


def start_killers(game: Game, seed: int) -> list[Killer]:
    """Kill the game's server at random moments, and its lander half the time at a random step."""
    chance = random.Random(seed)

    def land() -> Process:
        step = {"signal_at_step": [chance.randrange(1, 1500), signal.SIGKILL]} if chance.random() < 0.5 else {}
        return game.land(chance.choice(["land", "up"]), **step)

    def serve() -> Process:
        return game.serve(SERVERS[game.app])

    goal = KILLS // 4 + 1
    return [
        Killer(serve, goal=goal, longest=0.5, seed=seed),
        Killer(land, goal=goal, longest=0.5, seed=seed + 1),
    ]
