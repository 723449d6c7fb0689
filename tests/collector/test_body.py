"""What a compressed body may cost: work in proportion to its size, however many members it has."""

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from questlog.collector.http import Request, Response
from questlog.collector.http.body import MAX_MEMBERS, inflate
from questlog.collector.http.limits import LIMITS

LIMIT = LIMITS.max_body_bytes
MEMBER: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0hello"


class Counted:
    """A decompressor that counts the bytes it is given and the bytes it copies as unused."""

    begun = given = copied = 0

    def __init__(self, real: Any) -> None:
        Counted.begun += 1
        self._real = real

    def decompress(self, data: memoryview, *most: int) -> bytes:
        Counted.given += len(data)
        out: bytes = self._real.decompress(data, *most)
        Counted.copied += len(self._real.unused_data)
        return out

    @property
    def eof(self) -> bool:
        done: bool = self._real.eof
        return done

    @property
    def unused_data(self) -> bytes:
        rest: bytes = self._real.unused_data
        return rest


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """Count the work of every decompressor that the module makes."""
    Counted.begun = Counted.given = Counted.copied = 0
    new_gzip, new_zstd = zlib.decompressobj, zstandard.ZstdDecompressor

    class Zstd:
        def __init__(self, **options: Any) -> None:
            self._real = new_zstd(**options)
            self.stream_reader = self._real.stream_reader

        def decompressobj(self) -> Counted:
            return Counted(self._real.decompressobj())

    monkeypatch.setattr(zlib, "decompressobj", lambda wbits: Counted(new_gzip(wbits=wbits)))
    monkeypatch.setattr(zstandard, "ZstdDecompressor", Zstd)
    return Counted


def decompress(coding: str, data: bytes, limit: int = LIMIT) -> bytes | Response:
    request = Request("POST", b"/v1/events", {b"content-encoding": coding.encode()}, len(data), "127.0.0.1")
    request.body = data
    return inflate(request, limit)


@pytest.mark.parametrize("coding", MEMBER)
def test_a_body_of_empty_members_is_refused_after_bounded_work(coding: str, counted: type[Counted]) -> None:
    data = MEMBER[coding](b"")
    data *= LIMIT // len(data)
    refusal = decompress(coding, data)
    assert isinstance(refusal, Response) and refusal.status == 400
    assert b"more than 10,000 " in refusal.body and b"not_decodable" in refusal.body
    assert counted.begun == MAX_MEMBERS
    assert max(counted.given, counted.copied) <= len(data) + 256 * MAX_MEMBERS


def test_skippable_frames_count_as_frames(counted: type[Counted]) -> None:
    refusal = decompress("zstd", SKIPPABLE * (LIMIT // len(SKIPPABLE)))
    assert isinstance(refusal, Response) and refusal.status == 400
    assert counted.begun == MAX_MEMBERS


@pytest.mark.parametrize("coding", MEMBER)
@pytest.mark.parametrize("size", [1, 200, 5_000])
def test_work_is_linear_in_the_members(coding: str, size: int, counted: type[Counted]) -> None:
    noise = random.Random(size).randbytes(size)
    few, many = [(MEMBER[coding](noise)) * count for count in (50, 500)]
    assert decompress(coding, few) == noise * 50
    work_of_few, counted.given = counted.given, 0
    assert decompress(coding, many) == noise * 500
    assert counted.given < 15 * work_of_few, "ten times the members"
    assert counted.given < len(many) + 500 * (3 * len(many) // 500 + 256)


@pytest.mark.parametrize("coding", MEMBER)
def test_one_member_is_decompressed_in_one_call(coding: str, counted: type[Counted]) -> None:
    data = MEMBER[coding](b"a" * 100_000)
    assert decompress(coding, data) == b"a" * 100_000
    assert (counted.begun, counted.given) == (1, len(data))


@pytest.mark.parametrize("coding", MEMBER)
def test_as_many_members_as_events_are_allowed(coding: str) -> None:
    one = MEMBER[coding](b"{}")
    assert decompress(coding, one * MAX_MEMBERS) == b"{}" * MAX_MEMBERS
    refusal = decompress(coding, one * (MAX_MEMBERS + 1))
    assert isinstance(refusal, Response) and refusal.status == 400


def test_skippable_frames_between_others_are_skipped() -> None:
    frame = zstandard.compress(b"ab")
    assert decompress("zstd", SKIPPABLE + frame + SKIPPABLE * 2 + frame + SKIPPABLE) == b"abab"


@pytest.mark.parametrize("coding", MEMBER)
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda one: one * 3, 200),
        (lambda one: (one * 3)[:-1], 400),
        (lambda one: one + one[: len(one) // 2], 400),
        (lambda one: one + b"rubbish, and more of it", 400),
        (lambda one: one + b"\0", 400),
        (lambda one: one[:-1], 400),
    ],
    ids=["whole", "cut at the end", "cut in the second", "rubbish", "a zero byte", "one that is cut"],
)
def test_every_member_must_be_complete(coding: str, change: Callable[[bytes], bytes], status: int) -> None:
    noise = random.Random(7).randbytes(5_000)
    response = decompress(coding, change(MEMBER[coding](noise)))
    assert response == noise * 3 if status == 200 else isinstance(response, Response) and response.status == status


@pytest.mark.parametrize("coding", MEMBER)
@pytest.mark.parametrize("before", [b"", b"small"])
def test_a_bomb_is_refused_wherever_it_stands(coding: str, before: bytes) -> None:
    bomb = MEMBER[coding](before) * 20 + MEMBER[coding](bytes(50 << 20))
    refusal = decompress(coding, bomb)
    assert isinstance(refusal, Response) and refusal.status == 413
    exact = MEMBER[coding](b"a" * 60) * 10
    assert decompress(coding, exact, limit=600) == b"a" * 600
    refusal = decompress(coding, exact, limit=599)
    assert isinstance(refusal, Response) and refusal.status == 413
