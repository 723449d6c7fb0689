"""Events that are usual but for members the plan does not know: a client newer than the plan sends nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from questlog.errors import Reject
from questlog.plan import Envelope
from questlog.shape.fast.decoders import EventDecoder, Tagged, strict_objects, tagged_of
from questlog.shape.fields import Rules, as_json
from questlog.shape.read import read_body, read_members

Decode = Callable[[msgspec.json.Decoder[Any], Sequence[int]], list[Any]]
"""A decoder and indices of events -> those events, None for one that does not fit."""


class Loose:
    """Decodes events again, unknown members allowed where the fields are and nowhere else."""

    def __init__(self, rules: Rules, decoders: Mapping[str, EventDecoder], tagged: Tagged | None) -> None:
        self.rules = rules
        self.decoders = {name: each for name, each in decoders.items() if tagged is None or name in tagged.classes}
        strict, fields = strict_objects(rules.envelope), rules.envelope.fields
        self.strict: Callable[[str], bool] = lambda path: path != fields and strict(path)
        self._single: dict[str, msgspec.json.Decoder[Any]] = {}

    @cached_property
    def _tagged(self) -> Tagged | None:
        return tagged_of(self.rules, self.decoders, self.strict)

    def tagged(self, indices: Sequence[int], decode: Decode) -> Iterator[tuple[int, str, Any]]:
        """Yield the index, type and decoded body of each event that fits now."""
        if self._tagged is not None:
            names = {type_: name for name, type_ in self._tagged.classes.items()}
            for index, body in zip(indices, decode(self._tagged.decoder, indices), strict=True):
                if type(body) in names:
                    yield index, names[type(body)], body

    def named(self, name: str, indices: Sequence[int], decode: Decode) -> Iterator[tuple[int, str, Any]]:
        """Yield the same for events whose type is known to be *name*."""
        if name not in self._single:
            self._single[name] = msgspec.json.Decoder(self.decoders[name].tree.struct(self.strict))
        for index, body in zip(indices, decode(self._single[name], indices), strict=True):
            if body is not None:
                yield index, name, body


def left_over(names: Envelope, decoder: EventDecoder, sent: bytes) -> str | None:
    """Return the members that the plan does not know, as they were sent; None if only the careful path can tell."""
    body = read_body(sent)
    if isinstance(body, Reject):
        return None
    holder = body.raw(names.fields) if names.fields else None
    members = body.members if not names.fields else None if holder is None else read_members(holder)
    if members is None or not decoder.aliases.isdisjoint(members):
        return None
    return as_json([(key, raw) for key, raw in members.items() if key not in decoder.known])
