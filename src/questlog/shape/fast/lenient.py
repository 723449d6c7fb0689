"""The second try of the fast path, for events whose only flaw is members that the plan does not declare.

A client newer than the plan sends nothing but such events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from questlog.errors import Reject
from questlog.plan import Envelope
from questlog.shape.fast.decoders import EventDecoder, TaggedDecoder, strict_objects, tagged_decoder
from questlog.shape.fields import Rules, as_json
from questlog.shape.read import read_body, read_members

Decode = Callable[[msgspec.json.Decoder[Any], Sequence[int]], list[Any]]
"""A decoder and indices of events -> those events decoded, None for one that does not fit."""


class LenientDecoders:
    """Decode events again, with unknown members allowed among the fields and nowhere else."""

    def __init__(self, rules: Rules, decoders: Mapping[str, EventDecoder], tagged: TaggedDecoder | None) -> None:
        self.rules = rules
        self.decoders = {name: each for name, each in decoders.items() if tagged is None or name in tagged.classes}
        strict, fields = strict_objects(rules.envelope), rules.envelope.fields
        self.strict: Callable[[str], bool] = lambda path: path != fields and strict(path)
        self._single: dict[str, msgspec.json.Decoder[Any]] = {}

    @cached_property
    def _tagged(self) -> TaggedDecoder | None:
        return tagged_decoder(self.rules, self.decoders, self.strict)

    def tagged(self, indices: Sequence[int], decode: Decode) -> Iterator[tuple[int, str, Any]]:
        """Yield the index, type and decoded body of each event that fits now."""
        if self._tagged is not None:
            names = {type_: name for name, type_ in self._tagged.classes.items()}
            for index, body in zip(indices, decode(self._tagged.decoder, indices), strict=True):
                if type(body) in names:
                    yield index, names[type(body)], body

    def named(self, name: str, indices: Sequence[int], decode: Decode) -> Iterator[tuple[int, str, Any]]:
        """Yield the same for events that are known to be of type *name*."""
        if name not in self._single:
            self._single[name] = msgspec.json.Decoder(self.decoders[name].tree.struct(self.strict))
        for index, body in zip(indices, decode(self._single[name], indices), strict=True):
            if body is not None:
                yield index, name, body


def unknown_members(envelope: Envelope, decoder: EventDecoder, event: bytes) -> str | None:
    """Return the JSON of the members that the plan does not declare; None if only the scalar path can find them."""
    body = read_body(event)
    if isinstance(body, Reject):
        return None
    holder = body.raw(envelope.fields) if envelope.fields else None
    members = body.members if not envelope.fields else None if holder is None else read_members(holder)
    if members is None or not decoder.aliases.isdisjoint(members):
        return None
    return as_json([(key, raw) for key, raw in members.items() if key not in decoder.known])
