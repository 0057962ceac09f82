"""Read all texts of a column as instants or durations at once: ISO 8601 by pyarrow, the others one by one."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.table.columns.times import BEGINS, ORDERS, TimeFacts, TimeStyle

_ISO = r"^[1-9]\d{3}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?$"
_ISO_ZONED = r"^[1-9]\d{3}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})$"


def _iso_seconds(texts: pa.StringArray, *, has_zone: bool) -> NDArray[np.float64]:
    """Return the seconds of texts that are written as a CSV of a table with types has them, NaN of others.

    All at once: one by one took 25 µs for a value.
    """
    found = np.full(len(texts), np.nan)
    is_iso = pc.match_substring_regex(texts, _ISO_ZONED if has_zone else _ISO)
    try:
        instants = pc.cast(texts.filter(is_iso), pa.timestamp("us", "UTC" if has_zone else None))
    except pa.ArrowInvalid:  # some day is in no calendar
        return found
    places = pc.indices_nonzero(is_iso)
    found[_buffer(places, np.uint64)] = _buffer(instants, np.int64) / 1e6
    return found


def _buffer(array: pa.Array, kind: type[np.generic]) -> NDArray[Any]:
    """Return the values of an array without missing ones; `to_numpy` would import pandas."""
    return np.frombuffer(array.buffers()[1] or b"", kind, len(array), array.offset * 8)


def read_times(style: TimeStyle, texts: pa.StringArray) -> NDArray[np.float64]:
    """Return the seconds of each text, none of which is null; NaN of those that stand for none."""
    found = np.full(len(texts), np.nan)
    zones = (style.has_zone,) if style.zone_is_asked else (False, True)
    for has_zone in zones if style.is_instant else ():
        found = np.where(np.isnan(found), _iso_seconds(texts, has_zone=has_zone), found)
    rest = np.flatnonzero(np.isnan(found))
    spelled = texts.to_pylist() if len(rest) else []
    for place in rest.tolist():
        seconds = style.read(spelled[place])
        found[place] = np.nan if seconds is None else seconds
    return found


def iso_facts(texts: pa.StringArray, counts: NDArray[np.int64]) -> TimeFacts | None:
    """Gather the facts of texts, and how often each occurs, all of which are ISO 8601; None of others."""
    is_there = counts > 0
    if not is_there.any() or not BEGINS.match(texts[int(is_there.argmax())].as_py()):
        return None
    plain = ~np.isnan(_iso_seconds(texts, has_zone=False))
    zoned = ~plain & ~np.isnan(_iso_seconds(texts, has_zone=True))
    if not (plain | zoned)[is_there].all():
        return None
    values = int(counts.sum())
    example = texts[int(is_there.argmax())].as_py()
    return TimeFacts(dict.fromkeys(ORDERS, values), values, int(counts[zoned].sum()), example=example)
