"""docker-compose.yml is consistent, and Docker Compose accepts it where it is installed."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from support.paths import ROOT


def composition() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return parsed


def test_every_mounted_file_and_volume_exists() -> None:
    compose = composition()
    mounted = {
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", ())
    }
    files = {name for name in mounted if name.startswith("./")}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    assert mounted - files == set(compose["volumes"])


def test_every_server_that_others_depend_on_has_a_health_check() -> None:
    services = composition()["services"]
    waited = {name for service in services.values() for name in service.get("depends_on", ())}
    assert {name for name in waited if "healthcheck" not in services[name]} == set()
    assert {"kafka", "namenode", "datanode", "metastore", "presto", "spark"} <= {
        name for name, service in services.items() if "healthcheck" in service
    }


def test_every_port_is_bound_to_localhost() -> None:
    ports = [port for service in composition()["services"].values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_docker_compose_accepts_the_file() -> None:
    commands = [c for c in (["docker", "compose"], ["docker-compose"]) if shutil.which(c[0])]
    works = [c for c in commands if not subprocess.run([*c, "version"], capture_output=True).returncode]
    if not works:
        pytest.skip("docker compose is not installed")
    ran = subprocess.run([*works[0], "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
