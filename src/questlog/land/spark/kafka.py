"""librdkafka's settings as Kafka's Java client, which Spark uses, spells them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from questlog.errors import QuestlogError
from questlog.log.kafka.client import BOOTSTRAP

_SASL = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
_SAME = ("bootstrap.servers", "security.protocol", "client.id", "ssl.key.password")
_HINT = "see [kafka] in questlog.toml"


def java_options(kafka: Mapping[str, str]) -> dict[str, str]:
    """Return *kafka* as options of Spark's source: brokers, user and certificates.

    Certificates are passed on by what they say, not by where they lie: the workers have no such files.
    """
    found = {f"kafka.{key}": kafka[key] for key in _SAME if key in kafka}
    found.setdefault("kafka.bootstrap.servers", kafka.get("metadata.broker.list", BOOTSTRAP))
    return found | _user(kafka) | _certificates(kafka)


def _user(kafka: Mapping[str, str]) -> dict[str, str]:
    mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", ""))
    if not mechanism:
        return {}
    if mechanism not in _SASL:
        raise QuestlogError(f"kafka: Spark cannot use sasl.mechanism {mechanism}", hint=f"one of {', '.join(_SASL)}")
    user, password = (_quoted(kafka.get(key, "")) for key in ("sasl.username", "sasl.password"))
    return {
        "kafka.sasl.mechanism": mechanism,
        "kafka.sasl.jaas.config": f"{_SASL[mechanism]} required username={user} password={password};",
    }


def _certificates(kafka: Mapping[str, str]) -> dict[str, str]:
    found = dict[str, str]()
    if kafka.get("enable.ssl.certificate.verification", "true").lower() == "false":
        raise QuestlogError(
            "kafka: Spark always asks for a broker's certificate", hint="name its authority in ssl.ca.location"
        )
    if authority := _pem(kafka, "ssl.ca"):
        found |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.certificates": authority}
    chain, key = _pem(kafka, "ssl.certificate"), _pem(kafka, "ssl.key")
    if chain and key:
        found |= {"kafka.ssl.keystore.type": "PEM", "kafka.ssl.keystore.certificate.chain": chain,
                  "kafka.ssl.keystore.key": key}  # fmt: skip
    if "ssl.endpoint.identification.algorithm" in kafka:
        algorithm = kafka["ssl.endpoint.identification.algorithm"]
        found["kafka.ssl.endpoint.identification.algorithm"] = "" if algorithm == "none" else algorithm
    return found


def _pem(kafka: Mapping[str, str], name: str) -> str:
    """Return what `NAME.pem` says, or what the file at `NAME.location` does."""
    if f"{name}.pem" in kafka:
        return kafka[f"{name}.pem"]
    path = kafka.get(f"{name}.location", "")
    if path in ("", "probe"):  # librdkafka looks for the system's authorities, which Java knows anyway
        return ""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestlogError(f"kafka: {name}.location: {error}", hint=_HINT) from error


def _quoted(text: str) -> str:
    """Return *text* as a string of Java's login configuration."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
