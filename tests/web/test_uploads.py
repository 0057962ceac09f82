"""A table that is sent to the web server: what is kept of it, what is said of it, and what never remains."""

import asyncio
import fcntl
import gzip
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from dnnflow.errors import ConflictError, DataError, InputError, LimitError, NotFoundError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads import uploads as uploads_module
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.text_profile import GrowingFile, profile_file
from dnnflow.web.uploads.uploads import Uploads, WebUpload

T = TypeVar("T")
IRIS = Path(__file__).parent.parent.parent / "pipelines" / "data" / "iris.csv"
TABLE = b"a,b,kind\n" + b"".join(b"%d,%.2f,%s\n" % (i, i / 3, b"xy"[i % 2 :][:1]) for i in range(40))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Directory of the uploads."""
    return tmp_path / "uploads"


def cut(data: bytes, size: int = 1000) -> list[bytes]:
    """Divide into parts."""
    return [data[i : i + size] for i in range(0, len(data), size)]


async def sent(parts: Iterable[bytes], *, wait_s: float = 0.0) -> AsyncIterator[bytes]:
    """Send parts."""
    for part in parts:
        await asyncio.sleep(wait_s)
        yield part


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a thread of its own: a browser's driver may have this one's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def receive(
    directory: Path,
    data: bytes,
    *,
    limits: UploadLimits | None = None,
    key: str | None = None,
    size: int = 1000,
) -> WebUpload:
    """Receive a table."""
    uploads = Uploads(directory, limits or UploadLimits())
    return run(uploads.receive(sent(cut(data, size)), name="table.csv", key=key))


def profiled(path: Path, data: bytes) -> Profile:
    """Return the profile of a table, found in this process."""
    path.write_bytes(data)
    file = GrowingFile(path)
    file.grow(len(data))
    file.finish()
    return profile_file(file, Source(url="table.csv"), UploadLimits())


def zstd(data: bytes) -> bytes:
    """Compress."""
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed


def files(directory: Path) -> list[Path]:
    """All files under a directory."""
    return [path for path in directory.rglob("*") if path.is_file()] if directory.exists() else []


def parsers() -> list[psutil.Process]:
    """Parser processes of this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "dnnflow.web.uploads.profiler" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def nothing_remains(directory: Path) -> bool:
    """Whether neither a file nor a process is left."""
    return not files(directory) and not [*directory.glob(".incoming*")] and not parsers()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "table.csv": bytes, "table.csv.gz": gzip.compress, "table.csv.zst": zstd
}  # fmt: skip


@pytest.mark.parametrize("ending", PACKERS)
def test_a_table_is_kept_as_sent_and_known_by_its_profile(ending: str, directory: Path):
    body = PACKERS[ending](IRIS.read_bytes())
    upload = receive(directory, body)
    assert upload.path.read_bytes() == body
    assert upload.path.name == ending
    assert upload.size_bytes == len(body)
    profile = upload.profile
    assert profile.rows == 150
    assert profile.text_bytes == IRIS.stat().st_size
    assert [c.name for c in profile.columns] == IRIS.read_text().splitlines()[0].split(",")
    assert [",".join(row) for row in profile.first_rows] == IRIS.read_text().splitlines()[1:11]
    assert profile.columns[-1].values == (("setosa", 50), ("versicolor", 50), ("virginica", 50))
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_uploads_survive_a_restart_of_the_server(directory: Path):
    first = receive(directory, TABLE)
    second = receive(directory, TABLE)
    again = Uploads(directory, UploadLimits())
    assert again.get(first.upload_id) == first
    assert {u.upload_id for u in again.all()} == {first.upload_id, second.upload_id}
    again.delete(first.upload_id)
    with pytest.raises(NotFoundError, match="no upload"):
        again.get(first.upload_id)
    assert [u.upload_id for u in again.all()] == [second.upload_id]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\\b\\c.csv", "\x00\x1b[31mr.csv", "x" * 5000, "", "\u202ep.csv"]
)
def test_a_name_is_shown_only(name: str, directory: Path):
    upload = run(Uploads(directory, UploadLimits()).receive(sent([TABLE]), name=name))
    assert upload.path.parent.parent == directory
    assert 0 < len(upload.name) <= 120
    assert upload.name.isprintable()
    assert "/" not in upload.name


@pytest.mark.parametrize("wrong", ["..", "../keys", "", "a/b", ".keys", "x" * 16 + "/..", "\0"])
def test_an_id_is_no_path(wrong: str, directory: Path):
    receive(directory, TABLE, key="k")
    with pytest.raises(NotFoundError):
        Uploads(directory, UploadLimits()).get(wrong)


TABLES = {
    "numbers and text": TABLE,
    "missing": b"a,b,c\n1,,x\n,NA,y\n3,2,x\n4,?,y\n",
    "ragged": b"a,b,c\n1,2,x\n3,4\n",
    "long row": b"a,b,c\n1,2,x\n3,4,y,5\n",
    "twice": b"a,a,c\n1,2,x\n3,4,y\n",
    "header only": b"a,b,c\n",
    "blank lines behind a header": b"a,b\n\n\n",
    "empty": b"",
    "blank": b"  \n \n",
    "binary": b"a,b\n1,\0\n",
    "parquet": b"PAR1" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "open quote": b'a,b,c\n1,"2,x\n3,4,y\n',
    "quoted newlines": b'a,b,c\n"1\n",2,x\n3,4,"y\n\n"\n5,6,x\n7,8,"y\n\n"\n',
    "stray word": b"a,b,c\n" + b"".join(b"%d.5,%d,%d\n" % (i, i, i % 2) for i in range(50)) + b"oops,1,1\n",
    "infinite": b"a,b,c\n" + b"".join(b"%d.5,%d,%d\n" % (i, i, i % 2) for i in range(50)) + b"inf,1,1\n",
    "comma": b'a,b,c\n"1,5",1,0\n"2,5",2,0\n"3,5",1,1\n"4,5",3,1\n',
    "latin-1": "a,b,c\n1,2,é\n3,4,é\n5,6,x\n7,8,x\n".encode("latin-1"),
    "utf-16": "a,b,c\n1,2,é\n3,4,é\n5,6,x\n7,8,x\n".encode("utf-16"),
    "mark": "a,b,c\n1,2,é\n3,4,é\n5,6,x\n7,8,x\n".encode("utf-8-sig"),
    "semicolons": b"a;b;c\n1;2;x\n3;4;x\n5;6;y\n7;8;y\n",
    "tabs and returns": b"a\tb\tc\r\n1\t2\tx\r\n3\t4\tx\r\n5\t6\ty\r\n7\t8\ty\r\n",
    "booleans": b"a,b,c\n1,true,x\n2,False,x\n3,yes,y\n4,no,y\n",
    "an empty column": b"a,b,c\n1,,x\n2,,x\n3,,y\n4,,y\n",
    "numbers late": b"a,b,c\n" + b"word,1,0\n" * 10 + b"".join(b"%d,1,1\n" % i for i in range(20000)),
    "text late": b"a,b,c\n" + b"".join(b"%d,1,1\n" % (i % 9) for i in range(9000)) + b"word,2,0\n" * 9999,
    "one column": b"a\n1\n2\n1\n2\n",
    "broken gzip": gzip.compress(TABLE)[:-20],
    "gzip of late text": gzip.compress(b"a,b,c\n" + b"1,1,1\n" * 9000 + b"word,2,0\n" * 9999),
}


def verdict_of_ingest(
    path: Path, data: bytes, label: str, tmp_path: Path, drop: tuple[str, ...] = (), **fields: Any
):
    """Return the kinds of the features, or what the intake says."""
    path.write_bytes(data)
    try:
        recipe = Recipe(label=label, drop=drop, **fields)
        dataset = ingest(Source(url=str(path), format="csv"), recipe, tmp_path / "datasets")
    except DataError as error:
        return str(error).replace(str(path), "table.csv")
    return {column.name: str(column.kind) for column in dataset.schema}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_verdict_is_that_of_the_intake(name: str, tmp_path: Path):
    data, path = TABLES[name], tmp_path / "table.csv"
    try:
        profile, refusal = profiled(path, data), ""
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert verdict_of_ingest(path, data, "c" if name != "one column" else "a", tmp_path) == refusal
        return
    kinds = {column.name: column.kind for column in profile.columns}
    for column in profile.columns:
        drop = tuple(c.name for c in profile.columns if c.feature_problem and c.name != column.name)
        said = verdict_of_ingest(path, data, column.name, tmp_path, drop)
        if column.label_problem is None and len(kinds) > len(drop) + 1:
            if "different whole numbers" in str(said):  # the page lets them be chosen; the task is asked for
                said = verdict_of_ingest(path, data, column.name, tmp_path, drop, task="regression")
            assert isinstance(said, dict), f"label {column.name}: {said}"
            assert said == {n: k for n, k in kinds.items() if n in said}
            assert set(said) == set(kinds) - {column.name, *drop}
        elif column.label_problem is not None:
            assert said == column.label_problem


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (["1"] * 9, "at least 2 classes"),
        ([f"{i}.5" for i in range(60)] * 2, None),
        ([str(i) for i in range(60)], None),
        ([f"w{i}" for i in range(1500)] * 2, "at most 1000 classes"),
        (["x", "x", "y"], "at least 2 rows"),
        (["1", "1.0", "2", "2"], None),
        ([str(i) for i in range(1000)] * 2, None),
        ([""] * 5, "needs values"),
    ],
)
def test_a_label_that_cannot_be_is_explained(values: list[str], problem: str | None, tmp_path: Path):
    rows = "".join(f"{i},{i % 7},{value}\n" for i, value in enumerate(values))
    data = f"a,b,label\n{rows}".encode()
    column = profiled(tmp_path / "t.csv", data).columns[-1]
    assert column.name == "label"
    if problem is None:
        assert column.label_problem is None
        assert sum(count for _, count in column.values) == len(values)
        return
    assert problem in str(column.label_problem)
    assert column.label_problem == verdict_of_ingest(tmp_path / "t.csv", data, "label", tmp_path)


@pytest.mark.parametrize("step", [1, 0.5])
def test_a_label_may_have_any_number_of_numbers(step: float, tmp_path: Path):
    data = "a,label\n" + "".join(f"{i},{i * step}\n" for i in range(3000))
    column = profiled(tmp_path / "t.csv", data.encode()).columns[-1]
    assert (column.label_problem, column.distinct, column.values) == (None, 1001, ())


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=60), st.integers(1, 40)
)
@rounds(max_examples=200, deadline=None)
def test_no_number_is_lost_in_a_histogram(values: list[float], part: int):
    from dnnflow.web.uploads.column_counts import Histogram

    histogram = Histogram()
    for i in range(0, len(values), part):
        histogram.add(np.array(values[i : i + part]))
    assert sum(histogram.bins()) == len(values)
    assert histogram.least == min(values)
    assert histogram.most == max(values)


def test_dates_and_durations_are_features_and_doubtful_ones_are_told(tmp_path: Path):
    rows = "".join(
        f"2024-01-{i % 28 + 1:02},{i}:05:00,{i % 9 + 1}/{i % 7 + 1}/2024,{'ab'[i % 2]}\n" for i in range(40)
    )
    profile = profiled(tmp_path / "t.csv", f"day,took,due,y\n{rows}".encode())
    found = {one.name: one for one in profile.columns}
    assert [str(found[name].kind) for name in ("day", "took")] == ["time", "duration"]
    assert found["day"].feature_problem is found["took"].feature_problem is None
    assert "say how the last day of 2024 is written there" in (found["due"].feature_problem or "")


def test_a_histogram_is_that_of_all_rows(tmp_path: Path):
    values = np.random.default_rng(1).normal(size=50_000) * np.linspace(0.01, 100, 50_000)
    data = b"a,b\n" + b"".join(b"%r,%d\n" % (v, i % 2) for i, v in enumerate(values.tolist()))
    found = np.array(profiled(tmp_path / "t.csv", data).columns[0].histogram)
    exact = np.histogram(values, bins=20)[0]
    assert found.sum() == len(values)
    assert np.abs(found - exact).max() <= 0.04 * exact.max()


REFUSED = {
    "an upload may have at most": UploadLimits(stored_bytes=300),
    "bytes unpacked": UploadLimits(text_bytes=300),
    "columns": UploadLimits(columns=2),
    "rows": UploadLimits(rows=10),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_too_large_is_refused(words: str, directory: Path):
    with pytest.raises(LimitError, match=words):
        receive(directory, TABLE, limits=REFUSED[words], size=100)
    assert nothing_remains(directory)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_bomb_is_stopped_early(pack, directory: Path):
    bomb = pack(b"a,b,c\n" + b"1,2,3\n" * (16 << 20))
    with pytest.raises(LimitError, match="unpack"):
        receive(directory, bomb, size=1 << 16)
    assert nothing_remains(directory)


def test_who_stalls_is_refused(directory: Path):
    async def stalling() -> AsyncIterator[bytes]:
        yield TABLE
        await asyncio.sleep(30)

    uploads = Uploads(directory, UploadLimits(stall_s=0.3))
    with pytest.raises(LimitError, match="a part of an upload must come"):
        run(uploads.receive(stalling(), name="x"))
    assert nothing_remains(directory)


def test_who_takes_too_long_is_refused(directory: Path):
    uploads = Uploads(directory, UploadLimits(seconds_s=1.0))
    with pytest.raises(LimitError, match="at most 1 s"):
        run(uploads.receive(sent(cut(TABLE, 1) * 9, wait_s=0.1), name="x"))
    assert nothing_remains(directory)


def test_a_bad_row_is_told_before_the_end(directory: Path):
    rows = b"1,2,3\n" * (2 << 20)

    async def endless() -> AsyncIterator[bytes]:
        yield b"a,b,c\n1,2\n" + rows
        await asyncio.sleep(50)

    begun = time.monotonic()
    with pytest.raises(DataError, match=r"row 1 \(line 2\) has 2 values"):
        run(Uploads(directory, UploadLimits()).receive(endless(), name="x"))
    assert time.monotonic() - begun < 20
    assert nothing_remains(directory)


def test_too_many_at_once_are_refused(directory: Path):
    async def both() -> None:
        uploads = Uploads(directory, UploadLimits(at_once=1))
        first = asyncio.ensure_future(uploads.receive(sent(cut(TABLE, 100), wait_s=0.05), name="x"))
        await asyncio.sleep(0.1)
        with pytest.raises(LimitError, match="at once"):
            await uploads.receive(sent([TABLE]), name="y")
        await first
        await uploads.receive(sent([TABLE]), name="y")

    run(both())


def test_a_client_that_goes_away_leaves_nothing(directory: Path):
    async def broken() -> AsyncIterator[bytes]:
        yield TABLE[:100]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run(Uploads(directory, UploadLimits()).receive(broken(), name="x"))
    assert nothing_remains(directory)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3, 0.8])
def test_a_request_that_is_cancelled_leaves_nothing(after_s: float, directory: Path):
    async def cancelled() -> None:
        uploads = Uploads(directory, UploadLimits())
        task = asyncio.ensure_future(uploads.receive(sent(cut(TABLE, 10), wait_s=0.05), name="x"))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert nothing_remains(directory)


def test_a_key_stands_for_one_table(directory: Path):
    first = receive(directory, TABLE, key="k/../k")
    assert receive(directory, TABLE, key="k/../k") == first
    with pytest.raises(ConflictError, match="other bytes"):
        receive(directory, TABLE + b"1,2,x\n", key="k/../k")
    assert len(Uploads(directory, UploadLimits()).all()) == 1
    assert receive(directory, TABLE, key="other").upload_id != first.upload_id
    Uploads(directory, UploadLimits()).delete(first.upload_id)
    assert receive(directory, TABLE + b"1,2,x\n", key="k/../k").upload_id != first.upload_id


def test_two_with_one_key_at_once_are_one_upload(directory: Path):
    async def both() -> list[WebUpload]:
        uploads = Uploads(directory, UploadLimits())
        return await asyncio.gather(
            *(uploads.receive(sent(cut(TABLE, 50)), name="x", key="k") for _ in range(2))
        )

    one, other = run(both())
    assert one == other
    assert len(Uploads(directory, UploadLimits()).all()) == 1


def test_uploads_expire_unless_they_are_needed(directory: Path):
    limits = UploadLimits(kept_s=-1.0)
    gone, needed = (receive(directory, TABLE, limits=limits, key=k) for k in "ab")
    fresh = receive(directory, TABLE)
    dead = directory / ".incoming-abcdefghijklmnop"
    dead.mkdir()
    (dead / "table").write_bytes(b"x")
    uploads = Uploads(directory, limits)
    assert uploads.expire(keep={needed.upload_id}) == 2
    assert {u.upload_id for u in uploads.all()} == {needed.upload_id, fresh.upload_id}
    assert not dead.exists()
    assert not (directory / gone.upload_id).exists()


def test_an_upload_that_begins_while_others_expire_is_received(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server cleans up when it starts, and its first upload may come at that moment."""
    lock = fcntl.flock

    def expire_first(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX:
            Uploads(directory, UploadLimits()).expire()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", expire_first)
    assert receive(directory, IRIS.read_bytes()).profile.rows == 150


def test_what_is_being_received_does_not_expire(directory: Path):
    async def meanwhile() -> WebUpload:
        uploads = Uploads(directory, UploadLimits())
        task = asyncio.ensure_future(uploads.receive(sent(cut(TABLE, 100), wait_s=0.02), name="x"))
        await asyncio.sleep(0.05)
        assert Uploads(directory, UploadLimits()).expire() == 0
        return await task

    assert run(meanwhile()).profile.rows == 40


@pytest.mark.slow
@given(
    st.integers(0, 2**32),
    st.sampled_from(sorted(PACKERS)),
    st.sampled_from(["whole", "flip", "cut", "insert"]),
)
@rounds(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_kept_whole_or_not_at_all(directory: Path, seed: int, ending: str, harm: str):
    chance = random.Random(seed)
    body = bytearray(PACKERS[ending](b"q,b,kind\n" + b'"1\n\n,",2,x\n"3",4,y\n' * 20))
    at = chance.randrange(len(body))
    if harm == "flip":
        body[at] ^= 1 << chance.randrange(8)
    elif harm == "cut":
        del body[at:]
    elif harm == "insert":
        body[at:at] = chance.randbytes(chance.randrange(1, 40))
    ends = sorted(chance.randrange(len(body) + 1) for _ in range(12)) if body else []
    parts = [bytes(body[a:b]) for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]
    uploads = Uploads(directory, UploadLimits())
    try:
        upload = run(uploads.receive(sent(parts), name="x"))
    except InputError:
        assert nothing_remains(directory)
        return
    assert upload.path.read_bytes() == bytes(body)
    assert {path.name for path in files(directory)} == {upload.path.name, uploads_module.RECORD}
    uploads.delete(upload.upload_id)
    assert nothing_remains(directory)


def test_neither_process_loads_what_it_does_not_need():
    for module, not_needed in (
        ("uploads", {"tensorflow", "keras", "dask", "distributed", "pyarrow"}),
        ("profiler", {"tensorflow", "keras", "dask", "distributed", "pydantic", "sqlalchemy", "fastapi"}),
    ):
        code = f"import sys, dnnflow.web.uploads.{module}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not not_needed & set(loaded.stdout.split())
