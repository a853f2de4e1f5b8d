"""What docs/shards.md shows runs as it stands there."""

import re
from pathlib import Path

import pytest
from support.shard_jobs import colours, colours_job, converted

PAGE = Path(__file__).parents[2] / "docs" / "shards.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(tmp_path, colours_job())
    monkeypatch.chdir(tmp_path)


def test_plain_h5py(capsys: pytest.CaptureFixture[str]) -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 5
    found: dict[str, object] = {}
    exec(BLOCKS[0], found)
    assert (found["image"] == colours(0)).all()
    assert capsys.readouterr().out == "(8, 6, 3) 0 100 b'NHWC'\n"


def test_with_normhpc(capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[1], {})
    assert capsys.readouterr().out == "50 (8, 8, 6, 3) cat\n"
