import json
import math
import random

import numpy as np
import pytest

from normhpc.results.store import lines as store_lines
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
        numbers = {k: v for k, v in sorted(row.items()) if k not in KEYS and (v is None or type(v) in (int, float))}
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


KINDS = [
    {"train": ("loss", "top1", "lr"), "val": ("loss", "top1", "top5"), "test": ("loss", "top1", "top5")},
    {"train": ("loss", "lr"), "val": ("map_macro",), "test": ("map_macro", "top3")},
    {"train": (), "val": ("class", "loss", "\u00e4rea [%]")},
    {"train": ("loss",), "val": ('f1 "of" \\all', "loss")},
]


def clean(source, kind, epochs):
    """What a run of a kind writes when nothing happens to it."""
    splits = [(epoch, split) for epoch in range(1, epochs + 1) for split in ("train", "val")]
    splits += [(epochs, split) for split in kind if split == "test"]
    lines = []
    for epoch, split in splits:
        place = {"time": "t", "attempt": 1, "epoch": epoch, "step": 7 * epoch, "split": split}
        numbers = {
            name: source.choice((source.random(), source.gauss(0, 1e9), 0, 1, 1.0, None)) for name in kind[split]
        }
        lines.append(place | numbers)
    return lines


def spoiled(source, lines):
    """The same with one thing changed."""
    row = source.choice(lines)
    name = source.choice([name for name in row if name not in KEYS] or ["loss"])
    match source.randrange(14):
        case 0:
            row[name] = source.choice((True, "1.5", [1.0], {"a": 1}))
        case 1:
            row.pop(source.choice(("time", "attempt", "epoch", "step", "split")))
        case 2:
            row["epoch"] = source.choice((True, 1.0, 2**63 - 1, "1", None))
        case 3:
            row["attempt"] = source.choice((1, -(2**31), 2**31 - 1))
        case 4:
            row["more"] = 0.25
        case 5:
            row.pop(name, None)
        case 6:
            row["split"] = source.choice(("", "other", "train"))
        case 7:
            lines += [dict(line, attempt=2) for line in lines[-3:]]
        case 8:
            lines[0], lines[-1] = lines[-1], lines[0]
        case 9:
            row["time"] = source.choice((None, 1, "\ud83d", "\u00e4"))
    return lines


@pytest.mark.parametrize("seed", range(20))
def test_lines_of_known_kinds_are_as_a_plain_reader_finds_them(seed):
    source = random.Random(seed)
    contents = []
    for _ in range(200):
        lines = clean(source, source.choice(KINDS[: 1 + seed % 4]), source.randrange(1, 9))
        rows = [json.dumps(line) for line in (spoiled(source, lines) if source.random() < 0.1 else lines)]
        end = "\n"
        match source.randrange(60):
            case 0:
                end = ""
            case 1:
                rows[source.randrange(len(rows))] = rows[-1][: source.randrange(1, len(rows[-1]))]
            case 2:
                rows = ["".join(rows[:2]), *rows[2:], ""]
        contents.append(("\n".join(rows) + end).encode())
    for content, (lines, extent) in zip(contents, parse(*contents), strict=True):
        expected, torn, keyless = plainly(content)
        assert repr(lines) == repr(expected)
        assert (extent.torn, extent.keyless) == (torn, keyless)


def test_only_the_first_run_of_a_kind_is_read_as_dictionaries(monkeypatch):
    source = random.Random(0)
    read = []
    whole = store_lines._rows_of
    monkeypatch.setattr(store_lines, "_rows_of", lambda content: read.append(content) or whole(content))
    # a run that is not over has no test, so that what comes first is less than its kind
    epochs = {0: [3, 3, 5, 1], 1: [2, 2]}
    contents = [
        "".join(json.dumps(line) + "\n" for line in clean(source, KINDS[kind], count)).encode()
        for kind, counts in epochs.items()
        for count in counts
    ]
    unfinished = contents[0][: contents[0].rindex(b"{")]
    parse(unfinished, *contents, unfinished, *contents[::-1])
    assert read == [unfinished, contents[0], contents[4]]


def test_the_order_of_names_in_a_line_does_not_matter():
    """Tables must not depend on which run was read first."""
    one = '{"time":"t","attempt":1,"epoch":1,"step":1,"split":"val","top1":0.5,"loss":2.0}\n'
    other = '{"loss":2.0,"split":"val","epoch":1,"top1":0.5,"step":1,"time":"t","attempt":1}\n'
    found = {repr(parse(*(line.encode() for line in lines))) for lines in ([one, one], [one, other], [other, one])}
    assert len(found) == 1


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
    content = "".join(f"{row}\n" for row in rows).encode()
    # as dictionaries, and as a kind that is known
    parser.add(content)
    parser.add(content)
    found = parser.parsed().values.view(np.uint64)
    np.testing.assert_array_equal(found, np.tile(values.view(np.uint64), 2))


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
