"""A stand-in for kcat, for machines that cannot install it: the flags that our tests use, on the same librdkafka.

It consumes, produces and lists topics.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([nrt\\]))|%(.)")
_ANSWER_SECONDS = 5.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; the real kcat may support it")


def main(arguments: Sequence[str]) -> int:
    """Run kcat with *arguments*; return the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends it silently, as it ends kcat
    options = _parse(arguments)
    from confluent_kafka import KafkaException

    try:
        return int(_MODES[options.mode](options))
    except KafkaException as error:
        _fail(error.args[0].str())
    except KeyboardInterrupt:
        return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="kcat", allow_abbrev=False, description=__doc__)
    for mode, meaning in (("-C", "consume"), ("-P", "produce standard input, a line each"), ("-L", "list topics")):
        parser.add_argument(mode, dest="mode", action="store_const", const=mode, help=meaning)
    parser.add_argument("-b", dest="servers", required=True, help="brokers, HOST:PORT,…")
    parser.add_argument("-t", dest="topic", help="topic")
    parser.add_argument("-p", dest="partition", type=int, help="only this partition")
    parser.add_argument("-o", dest="offset", default="beginning", help="beginning, end, N, -N or s@MILLISECONDS")
    parser.add_argument("-c", dest="count", type=int, default=sys.maxsize, help="stop after this many records")
    parser.add_argument("-e", dest="ends", action="store_true", help="stop at the end of the topic")
    parser.add_argument(
        "-f", dest="format", help=r"%%s %%S value, %%k %%K key, %%h headers, %%T time, %%t %%p %%o position"
    )
    parser.add_argument("-J", dest="json", action="store_true", help="a JSON object for each record")
    parser.add_argument("-K", dest="key_ends", help="separator of key and value")
    parser.add_argument("-D", dest="value_ends", default="\\n", help="separator of records")
    parser.add_argument("-k", dest="key", help="produce: the key of every record")
    parser.add_argument("-H", dest="headers", action="append", default=[], help="produce: NAME=VALUE")
    parser.add_argument("-X", dest="settings", action="append", default=[], help="a setting of librdkafka, NAME=VALUE")
    parser.add_argument("-q", dest="quiet", action="store_true", help="print nothing on standard error")
    parser.add_argument("-u", dest="unbuffered", action="store_true", help="write each record at once")
    options = parser.parse_args(arguments)
    options.mode = options.mode or ("-C" if sys.stdin.isatty() else "-P")
    if options.mode != "-L" and options.topic is None:
        parser.error("-t TOPIC is missing")
    return options


def _fail(text: str) -> NoReturn:
    print(f"% ERROR: {text}", file=sys.stderr)
    raise SystemExit(1)


def _config(options: argparse.Namespace) -> dict[str, Any]:
    more = dict(setting.split("=", 1) for setting in options.settings)
    quiet = {"log_level": 0, "error_cb": lambda error: None}  # errors that matter are raised
    return {"bootstrap.servers": options.servers, **quiet, **more}


# -- consume -----------------------------------------------------------------------------------------


def consume(options: argparse.Namespace) -> int:
    """Write records to standard output until the end of each partition, the count, or Ctrl-C."""
    from confluent_kafka import Consumer, KafkaError, KafkaException

    config = {"group.id": "kcat", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(config | _config(options))
    starts = _starts(consumer, options)
    consumer.assign(starts)
    write, out, left, waiting = _writer(options), sys.stdout.buffer, options.count, {p.partition for p in starts}
    try:
        while left > 0 and (waiting or not options.ends):
            message = consumer.poll(1.0)
            error = message.error() if message is not None else None
            if message is None:
                continue
            if error is None:
                write(message, out)
                left -= 1
                if options.unbuffered or sys.stdout.isatty():
                    out.flush()
            elif error.code() == KafkaError._PARTITION_EOF:
                out.flush()
                waiting.discard(message.partition())
                if not options.quiet:
                    end = f"{message.topic()} [{message.partition()}] at offset {message.offset()}"
                    last = ": exiting" if options.ends and not waiting else ""
                    print(f"% Reached end of topic {end}{last}", file=sys.stderr)
            else:
                raise KafkaException(error)
    finally:
        out.flush()
        consumer.close()
    return 0


def _starts(consumer: Consumer, options: argparse.Namespace) -> list[Any]:
    """Return where to begin in each partition."""
    from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TopicPartition

    metadata = consumer.list_topics(options.topic, timeout=_ANSWER_SECONDS).topics[options.topic]
    if metadata.error is not None:
        _fail(f"Topic {options.topic} error: {metadata.error.str()}")
    numbers = [options.partition] if options.partition is not None else sorted(metadata.partitions)
    if time := re.fullmatch(r"s@(\d+)", options.offset):
        times = [TopicPartition(options.topic, n, int(time[1])) for n in numbers]
        return list(consumer.offsets_for_times(times, timeout=_ANSWER_SECONDS))
    named = {"beginning": OFFSET_BEGINNING, "end": OFFSET_END}.get(options.offset)
    if named is None and not re.fullmatch(r"-?\d+", options.offset):
        _fail(f"-o {options.offset}: beginning, end, N, -N or s@MILLISECONDS")
    starts = []
    for number in numbers:
        offset = named if named is not None else int(options.offset)
        if named is None and offset < 0:
            first, end = consumer.get_watermark_offsets(TopicPartition(options.topic, number), timeout=_ANSWER_SECONDS)
            offset = max(first, end + offset)
        starts.append(TopicPartition(options.topic, number, offset))
    return starts


def _writer(options: argparse.Namespace) -> Callable[[Message, BinaryIO], None]:
    if options.json:
        return lambda message, out: _write_json(message, out)
    key = f"%k{options.key_ends}" if options.key_ends is not None else ""
    text = options.format if options.format is not None else f"{key}%s{options.value_ends}"
    return lambda message, out: _write(text, message, out)


def _write(text: str, message: Message, out: BinaryIO) -> None:
    """Write *text* with a record's parts in place of %s, %k and the like."""
    done = 0
    for match in _ESCAPE.finditer(text):
        out.write(text[done : match.start()].encode())
        done = match.end()
        code, letter, part = match.groups()
        if part is not None:
            out.write(_part(part, message))
        else:
            out.write(bytes([int(code, 16)]) if code else {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}[letter])
    out.write(text[done:].encode())


def _part(name: str, message: Message) -> bytes:
    value, key = message.value(), message.key()
    if name == "s":
        return bytes(value or b"")
    if name == "k":
        return bytes(key or b"")
    if name == "h":
        return b",".join(n.encode() + b"=" + (v or b"") for n, v in message.headers() or ())
    numbers = {
        "S": len(value) if value is not None else -1, "K": len(key) if key is not None else -1,
        "T": message.timestamp()[1], "t": message.topic(), "p": message.partition(), "o": message.offset(),
    }  # fmt: skip
    if name not in numbers:
        _fail(f"-f: %{name} is not supported")
    return str(numbers[name]).encode()


def _write_json(message: Message, out: BinaryIO) -> None:
    kind, moment = message.timestamp()
    envelope: dict[str, Any] = {
        "topic": message.topic(), "partition": message.partition(), "offset": message.offset(),
        "tstype": {1: "create", 2: "logappend"}.get(kind, "unknown"), "ts": moment,
    }  # fmt: skip
    if headers := message.headers():
        envelope["headers"] = [part for name, value in headers for part in (name, _text(value))]
    envelope |= {"key": _text(message.key()), "payload": _text(message.value())}
    out.write(json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


# -- produce and list --------------------------------------------------------------------------------


def produce(options: argparse.Namespace) -> int:
    """Send each line of standard input as a record; return once the brokers have acknowledged all."""
    from confluent_kafka import Producer

    failed: list[str] = []
    producer = Producer({"acks": "all", **_config(options)})
    headers = [tuple(header.split("=", 1)) for header in options.headers]
    ends, key_ends = _unescaped(options.value_ends), _unescaped(options.key_ends) if options.key_ends else None

    def report(error: Any, message: Message) -> None:
        if error is not None:
            failed.append(error.str())

    where = {"partition": options.partition} if options.partition is not None else {}
    for line in sys.stdin.buffer.read().split(ends):
        if not line:
            continue
        key, value = options.key, line
        if key_ends is not None and key_ends in line:
            key, value = line.split(key_ends, 1)
        while True:
            try:
                producer.produce(options.topic, value, key, headers=headers, on_delivery=report, **where)
            except BufferError:
                producer.poll(0.5)
            else:
                break
    producer.flush()
    if failed:
        _fail(f"{len(failed)} records were not delivered: {failed[0]}")
    return 0


def _unescaped(text: str) -> bytes:
    return _ESCAPE.sub(lambda m: {"n": "\n", "r": "\r", "t": "\t"}.get(m[2] or "", m[0]), text).encode()


def list_topics(options: argparse.Namespace) -> int:
    """Write brokers, topics and partitions."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(_config(options))
    metadata = (
        admin.list_topics(options.topic, timeout=_ANSWER_SECONDS) if options.topic else admin.list_topics(timeout=5)
    )
    print(f"Metadata for {options.topic or 'all topics'} (from {options.servers}):\n {len(metadata.brokers)} brokers:")
    for broker in metadata.brokers.values():
        leads = " (controller)" if broker.id == metadata.controller_id else ""
        print(f"  broker {broker.id} at {broker.host}:{broker.port}{leads}")
    print(f" {len(metadata.topics)} topics:")
    for topic in metadata.topics.values():
        trouble = f" {topic.error.str()}" if topic.error else ""
        print(f'  topic "{topic.topic}" with {len(topic.partitions)} partitions:{trouble}')
        for number, p in sorted(topic.partitions.items()):
            copies, in_sync = (",".join(map(str, brokers)) for brokers in (p.replicas, p.isrs))
            print(f"    partition {number}, leader {p.leader}, replicas: {copies}, isrs: {in_sync}")
    return 0


_MODES: dict[str, Callable[[argparse.Namespace], int]] = {"-C": consume, "-P": produce, "-L": list_topics}

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
