"""The columns of a table: which are measurements, which come first, and which way is better."""

import math
from collections.abc import Iterable

IDENTITY = ("run_id", "sweep", "state", "seed")
"""First columns of a table of runs."""

PROVENANCE = ("images_per_statistic", "trained_together", "data_digest", "code")
"""Last columns of a table of runs: what must agree for runs to be compared."""

COST = ("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb", "parameters")
"""What a run took, as summaries name it: s, s, 1/s, MB, count."""

SPLITS = ("train", "val", "test")

_AT_MOST_THREE = ("cp_3", "cr_3", "cf1_3", "op_3", "or_3", "of1_3")
_SHARES = (
    *("top1", "top5", "map_macro", "map_micro", "f1_macro", "f1_micro", "cp", "cr", "cf1", "op", "or", "of1"),
    *_AT_MOST_THREE,
)
_QUALITIES = ("loss", *_SHARES)

BEFORE_ANY_RESULT = (
    *("train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "test_loss", "test_top1", "test_top5"),
)
"""Final metrics that a table shows as empty when no run in it is sealed yet."""

MAIN_QUALITIES = ("top1", "map_macro")
"""What one looks at first: of images with one label, of images with several."""

_HEADLINES = ("test_top1", "test_map_macro", "test_map_micro", "test_loss")
_DEFAULT_COST = ("seconds_per_epoch", "images_per_second", "peak_memory_mb")


def default_metrics(columns: Iterable[str]) -> list[str]:
    """What a table shows when nobody asks for anything else: quality on test, then cost."""
    there = set(columns)
    return [name for name in (*_HEADLINES, *_DEFAULT_COST) if name in there]


def final_order(names: Iterable[str]) -> list[str]:
    """Final metrics by split, then as the record's contract lists them, then by name."""
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, int, str]:
    split, quality = split_of(name), quality_of(name)
    return (
        SPLITS.index(split) if split in SPLITS else len(SPLITS),
        _QUALITIES.index(quality) if quality in _QUALITIES else len(_QUALITIES),
        name,
    )


def split_of(metric: str) -> str:
    """``test`` of ``test_top1``."""
    return metric.split("_", 1)[0]


def quality_of(metric: str) -> str:
    """``top1`` of ``test_top1`` and of ``best_val_top1``."""
    for split in SPLITS:
        before, found, after = metric.partition(f"{split}_")
        if found and before in ("", "best_"):
            return after
    return metric


def is_share(metric: str) -> bool:
    """Whether ``metric`` is a fraction of 1."""
    return quality_of(metric) in _SHARES


def limits_of(metric: str) -> tuple[float, float]:
    """The least and the most that ``metric`` can be."""
    if is_share(metric):
        return 0.0, 1.0
    return (0.0 if quality_of(metric) == "loss" or metric in COST else -math.inf), math.inf


def is_known(metric: str) -> bool:
    """Whether ``metric`` is measured of some runs on some split: ``test_top1``, not ``top1`` or ``test_top``."""
    return metric.startswith(tuple(f"{split}_" for split in SPLITS)) and quality_of(metric) in _QUALITIES


def better(metric: str) -> int:
    """1 when more of ``metric`` is better, -1 when less is, 0 when neither."""
    if is_share(metric) or metric == "images_per_second":
        return 1
    if quality_of(metric) == "loss" or metric in ("seconds", "seconds_per_epoch", "peak_memory_mb"):
        return -1
    return 0
