"""Letters that no file can hold, out of everything that JSON can give."""

import json

from normhpc.results.surrogates import without_surrogates


def test_halves_are_replaced_in_names_and_values_and_pairs_stay() -> None:
    given = {"a\ud800": ["\udfff", 1, None, True, 0.5, [2, "x\udc80y"]], "é": {"😀": "😀"}}
    assert without_surrogates(json.loads(json.dumps(given))) == {
        "a\ufffd": ["\ufffd", 1, None, True, 0.5, [2, "x\ufffdy"]],
        "é": {"😀": "😀"},
    }
    json.dumps(without_surrogates(given), ensure_ascii=False).encode()
