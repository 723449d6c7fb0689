"""What the forwarder writes into the topic is what the cluster's lander reads."""

from questlog.log import Entry, Gap
from questlog.log.kafka.wire import encode_item, sequence_of, spool_position, spool_sequences


def test_a_record_carries_its_spool_partition_and_its_sequence() -> None:
    entry = Entry(3, 41, b"{}", 0)
    assert encode_item("ab12cd.3", entry) == (b"{}", [("spool", b"ab12cd.3"), ("sequence", b"41")])


def test_a_lost_part_becomes_one_record_with_its_length_and_the_sequence_of_its_last_record() -> None:
    gap = Gap(0, 5, 9, "checksum", 0)
    value, headers = encode_item("ab12cd.0", gap)
    assert value == b"offsets 5 to 8 of spool partition 0: checksum"
    assert headers == [("spool", b"ab12cd.0"), ("sequence", b"8"), ("gap", b"4")]
    assert sequence_of(gap) == 8


def test_a_checkpoint_names_the_sequences_of_many_spools() -> None:
    sequences = {**spool_sequences("ab12cd", {0: 7, 12: 3}), **spool_sequences("ab12ce", {0: 9})}
    assert sequences == {"ab12cd.0": 7, "ab12cd.12": 3, "ab12ce.0": 9}
    assert spool_position("ab12cd", sequences) == {0: 7, 12: 3}
