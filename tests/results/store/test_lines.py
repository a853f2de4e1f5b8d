import json
import math
import random

import numpy as np
import pytest

from normhpc.results.store.lines import LineParser, Shapes

KEYS = ("time", "attempt", "epoch", "step", "split")


def parse(*contents):
    """Of each content its lines as (epoch, step, attempt, split, metrics), and its extent."""
    shapes = Shapes()
    parser = LineParser(shapes)
    for content in contents:
        parser.add(content)
    parsed = parser.parsed()
    found, line, value = [], 0, 0
    for extent in parsed.extents:
        lines = []
        for epoch, step, attempt, shape in parsed.lines[line : line + extent.lines].tolist():
            split, names = shapes.known[shape]
            lines.append((epoch, step, attempt, split, dict(zip(names, parsed.values[value:].tolist(), strict=False))))
            value += len(names)
        line += extent.lines
        found.append((lines, extent))
    assert (line, value) == (len(parsed.lines), len(parsed.values))
    return found


def plainly(content):
    """The same by the words of the contract: line by line, the last one of a place holds, by epoch and step."""
    last, torn, keyless = {}, 0, 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            torn += 1
            continue
        if type(row.get("epoch")) is not int or type(row.get("step")) is not int or type(row.get("split")) is not str:
            keyless += 1
            continue
        place = (row["epoch"], row["step"], row["split"])
        last.pop(place, None)
        last[place] = row
    lines = []
    for (epoch, step, split), row in sorted(last.items(), key=lambda item: item[0][:2]):
        numbers = {k: v for k, v in row.items() if k not in KEYS and (v is None or type(v) in (int, float))}
        metrics = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
        lines.append((epoch, step, row.get("attempt", 1), split, metrics))
    return lines, torn, keyless


def dirty(source):
    """A file of a run that was resumed, torn, and wrote all kinds of values."""
    lines = []
    epoch = 0
    for _ in range(source.randrange(60)):
        epoch = max(0, epoch + source.choice((0, 0, 1, 1, 1, -2 if source.random() < 0.1 else 1)))
        row = {"time": "t", "attempt": source.randrange(1, 4), "epoch": epoch, "step": 5 * epoch}
        row["split"] = source.choice(("train", "val"))
        for name in source.sample(("loss", "top1", "top5", "lr"), source.randrange(5)):
            row[name] = source.choice((source.random(), source.gauss(0, 1e9), 3, None, -0.0, 1e-300))
        match source.randrange(40):
            case 0:
                row["loss"] = source.choice(("text", True, [1.5], math.nan, math.inf))
            case 1:
                del row[source.choice(("epoch", "step", "split", "attempt"))]
            case 2:
                row["epoch"] = source.choice((1.0, None, "1", True))
        line = json.dumps(row)
        lines.append(line[: source.randrange(len(line))] if source.random() < 0.02 else line)
        if source.random() < 0.02:
            lines.append("")
    return "\n".join(lines).encode() + (b"\n" if source.random() < 0.8 else b"")


@pytest.mark.parametrize("seed", range(20))
def test_all_lines_are_as_a_plain_reader_finds_them(seed):
    source = random.Random(seed)
    contents = [dirty(source) for _ in range(50)]
    for content, (lines, extent) in zip(contents, parse(*contents), strict=True):
        expected, torn, keyless = plainly(content)
        # NaN is not equal to itself, its text is
        assert repr(lines) == repr(expected)
        assert (extent.torn, extent.keyless) == (torn, keyless)


def test_floats_come_back_to_the_bit():
    source = np.random.default_rng(0)
    values = source.integers(0, 2**64, 20_000, np.uint64).view(np.float64)
    values = values[np.isfinite(values)]
    rows = (
        json.dumps({"time": "t", "attempt": 1, "epoch": number, "step": number, "split": "val", "loss": value})
        for number, value in enumerate(values.tolist())
    )
    shapes = Shapes()
    parser = LineParser(shapes)
    parser.add("\n".join(rows).encode())
    np.testing.assert_array_equal(parser.parsed().values.view(np.uint64), values.view(np.uint64))


PLACE = '{"attempt":1,"epoch":1,"step":1,"split":"val"'


@pytest.mark.parametrize(
    ("content", "values", "torn"),
    [
        (f'{PLACE},"loss":[1\n2]}}\n{PLACE},"loss":3}}\n', [3.0], 2),
        (f'{PLACE},"loss":3}},{PLACE},"loss":4}}\n', [], 1),
        (f'{PLACE},"loss":"a\nb"}}\n', [], 2),
        ("[" * 100_000 + f'\n{PLACE},"loss":2}}\n', [2.0], 1),
        (
            f'{PLACE},"loss":1{"0" * 400}}}\n{PLACE.replace("val", "test")},"loss":-1{"0" * 400}}}',
            [math.inf, -math.inf],
            0,
        ),
        (f'{PLACE.replace("1", str(2**70))},"loss":1}}\n', [], 0),
        (f'{PLACE},"loss":"\\ud800","top1":1}}\n', [1.0], 0),
        (f'{PLACE},"loss":1,"loss":2}}\n', [2.0], 0),
    ],
    ids=[
        "two halves",
        "two in one",
        "end of line in a string",
        "deep",
        "huge",
        "huge epoch",
        "surrogate",
        "key twice",
    ],
)
def test_lines_that_only_look_like_rows(content, values, torn):
    ((lines, extent),) = parse(content.encode())
    assert [value for line in lines for value in line[4].values()] == values
    assert extent.torn == torn
