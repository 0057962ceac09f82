"""Tell what a file is by its first bytes, then by the end of its name."""

import json
import re
from pathlib import Path

HEAD_BYTES = 1 << 16
"""Bytes, decompressed, that are looked at."""

_MAGIC = {
    b"PAR1": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow", b"\xff\xff\xff\xff": "arrow", b"ORC": "orc",
    b"\x89HDF": "hdf5", b"\x93NUMPY": "npz", b"SQLite format 3\0": "sql", b"\xd0\xcf\x11\xe0": "excel",
}  # fmt: skip
_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".arff": "arff", ".zarr": "zarr",
}  # fmt: skip
_PACKED = (".gz", ".zst", ".bz2", ".xz", ".zip")
_ARRAY = re.compile(rb'\[\s*\{\s*["}]')
"""How an array of JSON objects begins, and no other table."""
_KEEL = re.compile(rb"^\s*@(inputs?|outputs?)\b|^\s*@attribute\s+\S+\s*(real|integer)\s*\[", re.I | re.M)


def suffix_of(name: str) -> str:
    """Return the end of a file's name or URL in lower case, without that of a compression."""
    path = Path(name.partition("?")[0])
    return path.with_suffix("").suffix.lower() if path.suffix.lower() in _PACKED else path.suffix.lower()


def file_kind(head: bytes, suffix: str, *, is_delimited: bool) -> str:
    """Return the kind of a file.

    Parameters
    ----------
    head
        Its first bytes, decompressed.
    suffix
        Of its name.
    is_delimited
        Whether it is known to have a delimiter: then text is a CSV.
    """
    known = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if head.startswith(b"PK\x03\x04"):
        return "npz" if b".npy" in head[:256] or suffix == ".npz" else "excel"
    if known is not None:
        return known
    if is_delimited:
        return "csv"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.search(rb"^\s*@relation\b", head[:8192], re.I | re.M):
        is_header = re.match(rb"(\s*%[^\n]*\n|\s)*@relation\b", start, re.I)
        if is_header:
            return "keel" if _KEEL.search(head) else "arff"
    return "jsonl" if _is_json(start, suffix) else _SUFFIXES.get(suffix, "csv")


def _is_json(start: bytes, suffix: str) -> bool:
    if _ARRAY.match(start) or (suffix == ".json" and start.startswith(b"[")):
        return True
    first = start.splitlines()[0] if start else b""
    if not first.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return suffix in (".json", *_SUFFIXES)
