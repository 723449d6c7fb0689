"""The forwarder's database, while other processes read it."""

import threading
from pathlib import Path

from questlog.log.kafka.spool import Spool, keep_from, read_forwarding, read_handover


def test_readers_do_not_interfere_with_spool_creation(tmp_path: Path) -> None:
    for number in range(40):
        data = tmp_path / str(number)
        (data / "log").mkdir(parents=True)
        stop, errors = threading.Event(), list[BaseException]()

        def read(data: Path = data, stop: threading.Event = stop, errors: list[BaseException] = errors) -> None:
            try:
                while not stop.is_set():
                    read_forwarding(data, data / "log"), keep_from(data), read_handover(data)
            except BaseException as error:
                errors.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for each in readers:
            each.start()
        try:
            with Spool(data, data / "log") as spool:
                spool.save_sent({0: 7}, {0: (0, 7)})
                assert read_forwarding(data, data / "log").sent == {0: 7}
        finally:
            stop.set()
            for each in readers:
                each.join()
        assert errors == []
