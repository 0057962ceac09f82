"""Check and profile one upload while it is received: `python -m dnnflow.web.uploads.profiler`.

It reads on standard input how many bytes of the file are written (a number a line, then `end`), and says on
standard output how many it has read; last comes the profile, or what is wrong with the table. When its input
ends before `end`, the server is gone or has given up, and it ends too.
"""

import json
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError, LimitError
from dnnflow.table.formats.file_kind import HEAD_BYTES, file_kind, suffix_of
from dnnflow.table.text.blanks import BLANK, FIXED_BYTES, kind_by_blanks, may_be_fixed
from dnnflow.table.text.source_text import readable, unpacked
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.text_profile import (
    GrowingFile,
    SentSource,
    look_at_text,
    profile_file,
    read_on,
    within_limits,
)

TEXTS = ("csv", "fwf")
"""Kinds that are read as they arrive."""
_REPORT_S = 0.02


def profile_upload(
    file: GrowingFile, source: SentSource, limits: UploadLimits, scratch: Path, *, only_look: bool = False
) -> Profile:
    """Check and profile a table of any kind.

    Parameters
    ----------
    file
        As it was sent; it may still grow.
    source
        How it is written; its `url` is the sender's name of it.
    limits
        More is refused.
    scratch
        An empty directory.
    only_look
        Whether to return names and first rows only, by the beginning of a text.

    Raises
    ------
    DataError
        If no dataset can be made of it.
    LimitError
        If it is larger than allowed.
    """
    with readable(source), unpacked(file) as (stream, is_compressed):
        head = bytes(stream.read(HEAD_BYTES))
    kind = source.format or file_kind(head, suffix_of(source.url), is_delimited=source.delimiter is not None)
    for option, wanted, what in (("query", "sql", "databases"), ("sheet", "excel", "workbooks")):
        if getattr(source, option) is not None and kind != wanted:
            raise DataError(f"{option} is for {what}, got one for a table of kind {kind}; leave it out")
    said = {"missing_values": list(source.missing_values)} if source.missing_values else {}
    if kind == "csv" and source.delimiter is None and source.encoding is None:
        source = _separated(file, source, head)
    elif kind == "fwf":
        source = source._replace(delimiter=BLANK)
    if kind in TEXTS and only_look:
        return look_at_text(file, source, limits)
    if kind in TEXTS:
        profile = profile_file(file, source, limits, missing=source.missing_values)
        of_kind = {"format": source.format} if source.format else {}
        return replace(profile, reading={**of_kind, **profile.reading, **said})
    from dnnflow.web.uploads.typed_profile import profile_typed

    file.seek(0)
    path = scratch / "unpacked"
    with readable(source), unpacked(file) as (stream, _), path.open("wb") as out:
        for piece in within_limits(read_on(stream, source), 0, file, limits):
            if is_compressed:  # else it is read to its end only
                out.write(piece)
    profile = profile_typed(path if is_compressed else file.path, kind, source, limits, scratch,
                            only_look=only_look)  # fmt: skip
    return replace(profile, reading={**profile.reading, **said})


def _separated(file: GrowingFile, source: SentSource, head: bytes) -> SentSource:
    """Return a text whose values blanks separate, or whose columns have a fixed width, as such a one."""

    def rest() -> bytes:
        file.seek(0)
        with readable(source), unpacked(file) as (stream, _):
            stream.read(HEAD_BYTES)
            return bytes(stream.read(FIXED_BYTES))

    is_short = len(head) < HEAD_BYTES
    found = kind_by_blanks(head, None if is_short else rest, may_be_fixed=may_be_fixed(source))
    if found is None:
        return source
    return source._replace(delimiter=BLANK, format="fwf" if found == "fwf" else source.format)


def _follow(lines: Iterable[str], file: GrowingFile) -> None:
    """Hear how the file grows; end this process when the server is gone."""
    for line in lines:
        if line.strip() == "end":
            file.finish()
            return
        file.grow(int(line))
    os._exit(1)


def _report(file: GrowingFile, done: threading.Event) -> None:
    """Say how much was read, whenever that has changed."""
    last = 0
    while not done.wait(_REPORT_S):
        if (now := file.tell()) != last:
            _say({"read": now})
            last = now


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Profile a file; the arguments are its path, a directory, `profile` or `look`, source and limits."""
    path, scratch, what, *described = sys.argv[1:]
    source, limits = map(json.loads, described)
    file = GrowingFile(Path(path))
    done = threading.Event()
    threading.Thread(target=_follow, args=(sys.stdin, file), daemon=True).start()
    reporting = threading.Thread(target=_report, args=(file, done))
    reporting.start()
    answer: dict[str, Any]
    try:
        source["missing_values"] = tuple(source["missing_values"])
        profile = profile_upload(file, SentSource(**source), UploadLimits(**limits), Path(scratch),
                                 only_look=what == "look")  # fmt: skip
        answer = {"profile": profile.to_dict()}
    except LimitError as error:
        answer = {"limit": str(error)}
    except DataError as error:
        answer = {"error": str(error)}
    finally:
        done.set()
        reporting.join()
    _say(answer)
    sys.stdout.flush()
    os._exit(0)  # the thread that follows may still wait for input


if __name__ == "__main__":
    main()
