"""Reading what a run printed, while it prints."""

import threading
import time

import pytest

from normhpc.config import Resources, RunConfig
from normhpc.errors import InputError
from normhpc.files import replace_json
from normhpc.record import RunFolder, append_event
from normhpc.record.folder import host_name
from normhpc.record.log import print_log


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(RunConfig(), sweep="demo", swept={}, resources=Resources(), code={})
    return folder


def test_prints_what_is_there(folder, capsys):
    folder.log.write_bytes("[0] epoch 1 ü\n[0] half a li".encode() + b"\xff\n")
    print_log(folder, follow=False)
    assert capsys.readouterr().out == "[0] epoch 1 ü\n[0] half a li\ufffd\n"


def test_nothing_printed_yet(folder):
    with pytest.raises(InputError, match=r"log.txt: not there, the run is new; follow it with -f$"):
        print_log(folder, follow=False)
    with pytest.raises(InputError, match=r"log.txt: not there, the run is new; launch its sweep first$"):
        print_log(folder, follow=True)


def test_follows_to_the_end(folder, capsys):
    append_event(folder, "started", host=host_name())

    def train():
        with folder.held_for_training():
            ready.set()
            time.sleep(0.1)
            with folder.log.open("w") as log:
                for line in ("one", "two"):
                    log.write(f"{line}\n")
                    log.flush()
                    time.sleep(0.3)
                log.write("three\n")
            replace_json(folder.summary, {"state": "finished"})

    ready = threading.Event()
    trainer = threading.Thread(target=train)
    trainer.start()
    ready.wait()
    print_log(folder, follow=True)
    trainer.join()
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
