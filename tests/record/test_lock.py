"""Locks that are gone with the process that holds them."""

import os
import signal

import pytest

from normhpc.errors import BusyError
from normhpc.record.lock import exclusive_lock, is_locked


def test_one_at_a_time_on_files_and_folders(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        assert not is_locked(path)
        with exclusive_lock(path, "busy"):
            assert is_locked(path)
            with pytest.raises(BusyError, match=r"^somebody has it$"), exclusive_lock(path, "somebody has it"):
                pytest.fail("both hold it")
            assert is_locked(path)
        assert not is_locked(path)


def test_asking_does_not_take_it(tmp_path):
    assert not is_locked(tmp_path / "absent")
    assert not any(is_locked(tmp_path) for _ in range(3))
    with exclusive_lock(tmp_path, "busy"):
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_freed_by_sigkill(tmp_path):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with exclusive_lock(tmp_path, "busy"):
            os.write(tell, b"x")
            signal.pause()
        os._exit(0)
    assert os.read(told, 1) == b"x"
    assert is_locked(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not is_locked(tmp_path)
    for end in (told, tell):
        os.close(end)
