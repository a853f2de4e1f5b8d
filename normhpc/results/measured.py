"""The metric lines of records, from the caches of the folders they lie in."""

from collections.abc import Iterator, Sequence

from normhpc.results.records import RunRecord
from normhpc.results.store.folder import CacheFolder
from normhpc.results.store.metrics import Measured, MetricCache, Wanted


def torn_lines(records: Sequence[RunRecord], *, sealed: bool) -> dict[str, int]:
    """Lines of ``metrics.jsonl`` that could not be read, counted by file, of the runs that are ``sealed`` or not."""
    chosen = [record for record in records if bool(record.summary) is sealed]
    found: dict[int, int] = {}
    for cache, directory, numbers in _caches(chosen):
        extents = cache.extents(_wanted(chosen, numbers), directory)
        found |= {number: extent.torn for number, extent in zip(numbers, extents, strict=True) if extent.torn}
    return {str(chosen[number].folder.metrics): count for number, count in sorted(found.items())}


def measured_parts(records: Sequence[RunRecord]) -> Iterator[tuple[list[int], Measured]]:
    """All lines and values: for each folder the numbers of its records and what they have, in their order."""
    for cache, directory, numbers in _caches(records):
        yield numbers, cache.measured(_wanted(records, numbers), directory)


def _caches(records: Sequence[RunRecord]) -> Iterator[tuple[MetricCache, str, list[int]]]:
    found: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        found.setdefault(record.place.directory, []).append(number)
    for directory, numbers in found.items():
        place = directory if records[numbers[0]].place.name else None
        yield MetricCache(CacheFolder(place)), directory, numbers


def _wanted(records: Sequence[RunRecord], numbers: Sequence[int]) -> list[Wanted]:
    chosen = (records[number] for number in numbers)
    return [Wanted(record.place.name, f"{record.path}/metrics.jsonl", record.measured) for record in chosen]
