"""What a spool remembers, while others look at it."""

import threading
from pathlib import Path

from questlog.log.kafka.spool import Spool, needed, read_forwarding, read_handover


def test_who_looks_while_it_is_made_disturbs_nobody_and_is_not_disturbed(tmp_path: Path) -> None:
    for number in range(40):
        data = tmp_path / str(number)
        (data / "log").mkdir(parents=True)
        stop, troubles = threading.Event(), list[BaseException]()

        def look(data: Path = data, stop: threading.Event = stop, troubles: list[BaseException] = troubles) -> None:
            try:
                while not stop.is_set():
                    read_forwarding(data, data / "log"), needed(data), read_handover(data)
            except BaseException as error:
                troubles.append(error)

        lookers = [threading.Thread(target=look) for _ in range(3)]
        for each in lookers:
            each.start()
        try:
            with Spool(data, data / "log") as spool:
                spool.remember({0: 7}, {0: (0, 7)})
                assert read_forwarding(data, data / "log").sent == {0: 7}
        finally:
            stop.set()
            for each in lookers:
                each.join()
        assert troubles == []
