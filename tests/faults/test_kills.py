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


@pytest.mark.timeout(900 + 4 * KILLS)
def test_killing_servers_and_landers_loses_and_duplicates_nothing(fork_server: ForkServer, tmp_path: Path) -> None:
    """Server and lander of two games under load are killed; queries in between are right as well."""
    print(f"\nseed {SEED}: {KILLS} kills")
    games = [Game(fork_server, tmp_path / app, app) for app in SERVERS]
    clients = [Clients(game, seed=SEED + n) for n, game in enumerate(games)]
    servers = [kill_servers(game, SEED + n) for n, game in enumerate(games)]
    landers = [kill_landers(game, SEED + n) for n, game in enumerate(games)]
    landed = [0] * len(games)
    try:
        while not all(killer.kills > KILLS // 4 for killer in (*servers, *landers)) or not all(landed):
            for number, (game, client, lander) in enumerate(zip(games, clients, landers, strict=True)):
                acknowledged = set(client.acknowledged)
                counts = game.marks()
                assert_promise(counts, acknowledged, set(client.sent), "in the next query")
                landed[number] = game.ledger()["landed"]
                if landed[number] < len(acknowledged) / 4:  # a busy machine: let landers live until they have landed
                    landed[number], lander.longest = 0, min(1.6 * lander.longest, 20)
            done = sum(killer.kills for killer in (*servers, *landers))
            print(f"{done} kills, {sum(len(c.acknowledged) for c in clients)} acknowledged", flush=True)
    finally:
        for stopped in (*servers, *landers, *clients):
            stopped.stop()
    for game, client in zip(games, clients, strict=True):
        assert_promise(game.marks(), client.acknowledged, client.sent, "before the last landing")
        game.run("land")
        assert_promise(game.marks(), client.acknowledged, client.sent, "after the last landing")
        assert_landed(game, client.acknowledged, client.sent)


def kill_servers(game: Game, seed: int) -> Killer:
    """Start killing the game's server at random moments."""
    return Killer(lambda: game.serve(SERVERS[game.app]), longest=0.5, seed=seed)


def kill_landers(game: Game, seed: int) -> Killer:
    """Start killing the game's lander: half the time at a random moment, half at a random step."""
    chance = random.Random(seed)

    def land() -> Process:
        step = {"signal_at_step": [chance.randrange(1, 1500), signal.SIGKILL]} if chance.random() < 0.5 else {}
        return game.land(chance.choice(["land", "up"]), **step)

    return Killer(land, longest=0.5, seed=seed + 1)
