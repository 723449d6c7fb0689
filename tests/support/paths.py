"""Where things are in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
CLUSTER = TESTS / "cluster"
SWORDS = ROOT / "examples" / "swords"
WAVES = ROOT / "examples" / "waves"
