"""Text that JSON can spell and no file can hold: lone halves of surrogate pairs, ``"\\ud800"``."""

import re
from typing import Any

_HALVES = re.compile("[\ud800-\udfff]")


def without_surrogates(value: Any) -> Any:
    """A value as JSON gives it, with U+FFFD for each lone half of a surrogate pair, also in names and in lists.

    Tables and pages are UTF-8, which has no such letters.
    """
    if isinstance(value, str):
        # most text is ASCII, which knows so at once
        return value if value.isascii() else _HALVES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {without_surrogates(name): without_surrogates(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_surrogates(item) if isinstance(item, str | dict | list) else item for item in value]
    return value
