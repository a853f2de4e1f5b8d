"""The scalars of YAML 1.2's core schema, and what the reader refuses."""

import math

import pytest

from normhpc.errors import InputError
from normhpc.sweep.yaml12 import parse

SCALARS = [
    ("1e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-1.5e+2", -150.0), ("+.5", 0.5), ("0.0", 0.0),
    (".inf", math.inf), ("-.INF", -math.inf), ("1e999", math.inf),
    ("0", 0), ("-3", -3), ("+4", 4), ("012", 12), ("0o17", 15), ("0x1F", 31),
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
    ("tRue", "tRue"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("n", "n"), ("NO", "NO"),
    ("~", None), ("null", None), ("Null", None), ("NULL", None), ("", None), ("nULL", "nULL"),
    ("12:30:00", "12:30:00"), ("2020-01-01", "2020-01-01"), ("1_000", "1_000"), ("0b11", "0b11"), ("-0x1F", "-0x1F"),
    ("1e", "1e"), (".", "."), ("-", "-"), ("+", "+"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("=", "="), ("<<", "<<"),
    ("'1'", "1"), ('"no"', "no"), ("!!str 1", "1"), ("!!int '1'", 1), ("inf", "inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text for text, _ in SCALARS])
def test_scalars(text, value):
    if text == "-":
        text = "'-'"
    found = parse(f"key: {text}").value["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan():
    assert math.isnan(parse(".nan").value)


REFUSED = [
    ("a: 1\nb: 2\na: 3", "f.yaml:3:1: a: 'a' is given twice, first at line 1, column 1"),
    ("x: {a: 1, a: 2}", "f.yaml:1:11: x.a: 'a' is given twice, first at line 1, column 5"),
    ("1: a\n1: b", "f.yaml:2:1: 1: '1' is given twice, first at line 1, column 1"),
    ("a: !!float x", "f.yaml:1:4: a: 'x' is not a YAML 1.2 float"),
    ("a: !!python/object:os.system x", "f.yaml:1:4: a: the tag !!python/object:os.system is not allowed"),
    ("a: !!python/tuple [1]", "f.yaml:1:4: a: the tag !!python/tuple is not allowed"),
    ("a: !!set {b}", "f.yaml:1:4: a: the tag !!set is not allowed"),
    ("a: !!timestamp 2020-01-01", "f.yaml:1:4: a: the tag !!timestamp is not allowed"),
    ("a: !own 3", "f.yaml:1:4: a: the tag !own is not allowed"),
    ("a: &x [*x]", "f.yaml:1:4: a[0]: an alias refers to the value it stands in"),
    ("a: &x {<<: *x}", "f.yaml:1:4: a: an alias refers to the value it stands in"),
    ("a: *x", "f.yaml:1:4: not YAML: found undefined alias"),
    ("<<: 3", "f.yaml:1:5: << takes a mapping or a list of mappings"),
    ("? [1]\n: 2", "f.yaml:1:3: a key must be a plain word, not a list or mapping"),
    ("a:\n\tb: 1", "f.yaml:2:1: not YAML: expected blanks before the first word of a line, found a tab"),
    ("a: \x01", "f.yaml: not YAML: character 1 is not allowed"),
    ("a: " + "9" * 5000, "f.yaml:1:4: a: a number of 5000 digits is too long"),
    ("[" * 100_000, "f.yaml:1:51: nested deeper than 50 levels"),
    ("a: 1\n--- 2", "f.yaml:2:1: not YAML: expected a single document in the stream, but found another document"),
    ("a: 'b", "f.yaml:1:6: not YAML: while scanning a quoted scalar, found unexpected end of stream"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[text[:20] for text, _ in REFUSED])
def test_refused(text, message):
    with pytest.raises(InputError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value) == message


def test_an_alias_bomb_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 10)]
    with pytest.raises(InputError, match="aliases repeat more than 100,000 values"):
        parse("\n".join(lines))


@pytest.mark.parametrize("link", ["a{at}: &a{at} [*a{before}]", "a{at}: &a{at} {{<<: *a{before}}}"])
def test_a_long_chain_of_aliases_is_refused(link):
    lines = ["a0: &a0 {b: 1}", *(link.format(at=at, before=at - 1) for at in range(1, 2000))]
    with pytest.raises(InputError, match="nested deeper than 50 levels by aliases"):
        parse("\n".join(lines))


def test_anchors_aliases_and_merge_keys():
    document = parse(
        "one: &one {a: 1, b: [1, 2]}\n"
        "two: &two {b: 3, c: 4}\n"
        "three:\n  <<: [*one, *two]\n  a: 9\n"
        "four: {<<: *one, d: *two}\n"
    )  # fmt: skip
    assert document.value["three"] == {"a": 9, "b": [1, 2], "c": 4}
    assert document.value["four"] == {"a": 1, "b": [1, 2], "d": {"b": 3, "c": 4}}
    assert document.place(("three", "a")) == (5, 6)
    assert document.place(("three", "b", 1)) == (1, 25)
    assert document.place(("three", "c"), of_key=True) == (2, 18)


def test_places_count_from_one_and_fall_back_to_the_parent():
    document = parse("a:\n  b: [x, {c: 1}]\n  'd.e': 2\n")
    assert document.place(("a", "b"), of_key=True) == (2, 3)
    assert document.place(("a", "b", 1, "c")) == (2, 14)
    assert document.place(("a", "b", 1, "c"), of_key=True) == (2, 11)
    assert document.place(("a", "d.e")) == (3, 10)
    assert document.place(("a", "b", 1, "missing", 3)) == (2, 10)
    assert document.place(("nothing",)) == (1, 1)


def test_an_empty_document_is_null():
    assert parse("# nothing\n").value is None
    assert parse("# nothing\n").place(("a",)) is None
