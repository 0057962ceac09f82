"""Uploads of every kind that is read, how they may be read in another way, and what they never reach."""

import asyncio
import bz2
import gzip
import lzma
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from dnnflow.errors import DataError, InputError, LimitError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.sql_query import open_query
from dnnflow.table.store.ingest import ingest
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.reading import UploadReading
from dnnflow.web.uploads.uploads import Uploads, WebUpload
from tests.web.browsing import Site, Tab

FRAME = pd.DataFrame({
    "width": np.arange(40) / 8, "code": ["01", "1", "002", "7"] * 10, "kind": ["oak", "elm"] * 20,
})  # fmt: skip
ARFF = "@relation t\n@attribute width real\n@attribute code {01,1,002,7}\n@attribute kind {oak,elm}\n@data\n"
KEEL = ARFF.replace("width real", "width real [0, 9]").replace("@data", "@outputs kind\n@data")


def fixed(frame: pd.DataFrame) -> str:
    """Return text of columns of fixed width, where a row may have no value."""
    return "".join(f"{a!s:<8}{b!s:<12}{c}\n" for a, b, c in [[*frame], *frame.to_numpy().tolist()])


def _rows() -> str:
    return FRAME.to_csv(index=False, header=False)


def _workbook(path: Path) -> None:
    with pd.ExcelWriter(path) as book:
        FRAME.to_excel(book, sheet_name="trees", index=False)
        FRAME.assign(height=1.5).to_excel(book, sheet_name="more", index=False)


def _database(path: Path) -> None:
    connection = sqlite3.connect(path)
    for table in ("trees", "others"):
        FRAME.to_sql(table, connection, index=False)
    connection.commit()
    connection.close()


WRITERS: dict[str, Callable[[Path], Any]] = {
    "t.csv": lambda path: FRAME.to_csv(path, index=False),
    "t.parquet": lambda path: FRAME.to_parquet(path),
    "t.feather": lambda path: FRAME.to_feather(path),
    "t.orc": lambda path: FRAME.to_orc(path),
    "t.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "t.json": lambda path: FRAME.to_json(path, orient="records", indent=2),
    "t.xlsx": _workbook,
    "t.sqlite": _database,
    "t.txt": lambda path: path.write_text(FRAME.to_string(index=False)),
    "fixed.txt": lambda path: path.write_text(fixed(FRAME.astype(str).replace({"width": {"0.5": ""}}))),
    "t.arff": lambda path: path.write_text(ARFF + _rows()),
    "t.dat": lambda path: path.write_text(KEEL + _rows()),
}
"""A file of each kind."""
ASKED = {"t.sqlite": UploadReading(query="trees")}


async def parts(data: bytes) -> AsyncIterator[bytes]:
    """Send a file."""
    yield data


def run(work: Any) -> Any:
    """Run to the end in a thread of its own: a browser's driver may have this one's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def received(path: Path, asked: UploadReading | None = None, limits: UploadLimits | None = None) -> WebUpload:
    """Upload a file."""
    uploads = Uploads(path.parent / "uploads", limits or UploadLimits())
    return run(uploads.receive(parts(path.read_bytes()), name=path.name, asked=asked or UploadReading()))


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_is_profiled_as_the_study_will_take_it(name: str, tmp_path: Path):
    path = tmp_path / name
    WRITERS[name](path)
    upload = received(path, ASKED.get(name))
    found = {one.name: one for one in upload.profile.columns}
    assert upload.profile.rows == 40
    assert found["width"].kind == "number"
    assert dict(found["code"].values) == {"01": 10, "1": 10, "002": 10, "7": 10}
    assert dict(found["kind"].values) == {"oak": 20, "elm": 20}
    assert upload.profile.first_rows[1][2].strip() == "elm"
    reading = {k: v for k, v in upload.profile.reading.items() if k != "missing_values"}
    dataset = ingest(Source(url=str(upload.path), **reading), Recipe(label="code"), tmp_path / "datasets")
    assert sorted(dataset.class_names) == sorted(dict(found["code"].values))
    assert {one.name: str(one.kind) for one in dataset.schema} == {
        n: found[n].kind for n in ("width", "kind")
    }


def test_arrays_are_columns(tmp_path: Path):
    np.savez(tmp_path / "t.npz", x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    assert [one.name for one in received(tmp_path / "t.npz").profile.columns] == ["x_1", "x_2", "y"]
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["x"], file["y"] = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    assert [one.distinct for one in received(tmp_path / "t.h5").profile.columns] == [20, 20, 2]


@pytest.mark.parametrize(("ending", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_texts_packed_in_other_ways_are_read(ending: str, pack: Any, tmp_path: Path):
    path = tmp_path / f"t.csv{ending}"
    path.write_bytes(pack(b"x,y\n" + b"".join(b"%d,%c\n" % (i, 97 + i % 2) for i in range(40))))
    upload = received(path)
    assert (upload.path.name, upload.profile.rows) == (f"table.csv{ending}", 40)


def test_two_byte_order_marks_take_nothing_from_the_end(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" * 2 + b"y,x\n" + b"".join(b"%c,%d\n" % (97 + i % 2, i) for i in range(400))
    )
    upload = received(path)
    size = next(column for column in upload.profile.columns if column.name == "x")
    assert (upload.profile.rows, size.kind, size.distinct) == (400, "number", 400)


def test_titles_and_other_sheets_of_a_workbook_are_told(tmp_path: Path):
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.Workbook()
    for row in [["Sales"], ["x", "y"], *([i, "ab"[i % 2]] for i in range(20))]:
        book.active.append(row)
    book.create_sheet("more")
    book.save(tmp_path / "t.xlsx")
    profile = received(tmp_path / "t.xlsx").profile
    assert profile.rows == 20
    assert ["'Sheet' is read" in profile.notes[0], "'Sales'" in profile.notes[1]] == [True, True]


def test_a_packed_file_of_any_kind_is_read(tmp_path: Path):
    FRAME.to_parquet(tmp_path / "plain.parquet")
    path = tmp_path / "t.parquet.gz"
    path.write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    upload = received(path)
    assert upload.path.name == "table.parquet.gz"
    assert upload.profile.rows == 40


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("t.parquet", b"PAR1" + bytes(99), "t.parquet is not"),
        ("t.xlsx", b"PK\x03\x04" + bytes(99), "a workbook must be readable"),
        ("t.sqlite", b"SQLite format 3\0" + bytes(99), "cannot read t.sqlite"),
        ("t.pdf", b"%PDF-1.7\n" + bytes(99), "a PDF file"),
        ("t.json", b"[1, 2]", "row 1: each record must be a JSON object, .* but it is '1, 2]'"),
        ("t.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "t.h5 is not"),
    ],
)
def test_what_is_no_such_file_is_told_in_a_sentence(name: str, data: bytes, rule: str, tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rule) as refusal:
        received(tmp_path / name)
    assert str(tmp_path) not in str(refusal.value)


def test_limits_hold_for_each_kind(tmp_path: Path):
    for name in ("t.parquet", "t.sqlite", "t.xlsx"):
        WRITERS[name](tmp_path / name)
        with pytest.raises(LimitError, match="39 rows"):
            received(tmp_path / name, ASKED.get(name), UploadLimits(rows=39))
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(4_000_000), y=np.zeros(4_000_000))
    with pytest.raises(LimitError, match="unpack"):
        received(tmp_path / "bomb.npz")


def test_an_endless_query_ends(tmp_path: Path):
    _database(tmp_path / "t.sqlite")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i % 2 AS y FROM n"
    with pytest.raises(LimitError, match="1000 rows"):
        received(tmp_path / "t.sqlite", UploadReading(query=endless), UploadLimits(rows=1000))


REACHING = (
    "ATTACH '{other}' AS o", "VACUUM INTO '{copy}'", "DELETE FROM trees", "DROP TABLE trees",
    "PRAGMA journal_mode=WAL", "SELECT load_extension('x')", "SELECT * FROM pragma_database_list",
    "SELECT 1 AS a) ; ATTACH '{other}' AS o --",
)  # fmt: skip


@pytest.mark.parametrize("statement", REACHING)
def test_a_query_reaches_nothing_but_its_file(statement: str, tmp_path: Path):
    path, other, copy = tmp_path / "t.sqlite", tmp_path / "other.sqlite", tmp_path / "copy.sqlite"
    _database(path)
    _database(other)
    before = path.read_bytes()
    query = statement.format(other=other, copy=copy)
    with pytest.raises(DataError):
        received(path, UploadReading(query=query))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(DataError):  # a study asks it once more
        open_query(f"sqlite:///{path}", query, scratch)
    assert path.read_bytes() == before
    assert not copy.exists()


def test_an_hdf5_file_reaches_no_other(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(40)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["y"] = np.arange(40)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["y"] = np.arange(40) % 2
        file.create_dataset("x", (40,), dtype="u1", external=[(str(secret), 0, 40)])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["x"] = np.arange(40)
        file["y"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "y")
    for name in ("raw.h5", "link.h5"):
        with pytest.raises(DataError, match="must hold its arrays itself"):
            received(tmp_path / name)


def test_a_label_is_counted_by_spellings_as_the_intake_does(tmp_path: Path):
    values = ["1", "1.0", "01", "None", "none", "NA", "2", "2"] * 5
    path = tmp_path / "t.csv"
    path.write_text("a,b,label,big\n" + "".join(f"{i},{i % 3},{v},{v}\n" for i, v in enumerate(values)))
    column = received(path).profile.columns[2]
    assert dict(column.values) == {"1": 5, "1.0": 5, "01": 5, "2": 10, "None": 5, "none": 5}
    assert (column.missing, column.label_missing) == (15, 5)
    path.write_text(
        "a,b,label\n" + "".join(f"{i},{i % 3},{v}\n" for i, v in enumerate(["1", "1.0", "01"] * 5))
    )
    column = received(path).profile.columns[2]
    dataset = ingest(Source(url=str(path)), Recipe(label="label"), tmp_path / "datasets")
    assert dict(column.values) == {"1": 10, "01": 5}
    assert [name for name, _ in sorted(column.values)] == sorted(dataset.class_names)
    assert set(column.label_notes) <= set(dataset.notes)


def test_notes_are_those_of_the_intake(tmp_path: Path):
    path = tmp_path / "t.csv"
    rows = "".join(f"{i},{i / 4} kg,{'xy'[i % 2]}\n" for i in range(30))
    path.write_text(f"# made by hand\nrow,weight,kind\n{rows}")
    profile = received(path, UploadReading(missing_values=["-999"])).profile
    recipe = Recipe(label="kind", missing_values=("-999",))
    dataset = ingest(Source(url=str(path)), recipe, tmp_path / "datasets")
    assert profile.notes == dataset.notes
    assert len(profile.notes) == 4


def test_a_table_is_read_again_over_rest(client: TestClient, tmp_path: Path, services: Services):
    _workbook(tmp_path / "t.xlsx")
    headers = {
        "Content-Type": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "X-File-Name": "t.xlsx",
    }
    body = (tmp_path / "t.xlsx").read_bytes()
    made = client.post("/api/v1/datasets", content=body, headers=headers).json()
    assert (made["parts"], made["reading"]["format"]) == (["trees", "more"], "excel")
    url = f"/api/v1/datasets/{made['upload_id']}"
    again = client.put(f"{url}/reading", json={"sheet": "more", "missing_values": ["7"]})
    assert again.status_code == 200, again.text
    assert [one["name"] for one in again.json()["columns"]][-1] == "height"
    refused = client.put(f"{url}/reading", json={"sheet": "tree"})
    assert refused.status_code == 422
    assert "nearest: 'trees'" in refused.json()["detail"]
    assert client.get(url).json()["asked"] == {"sheet": "more", "missing_values": ["7"]}
    other = client.post("/api/v1/datasets?sheet=more", content=body, headers=headers).json()
    assert other["columns"][-1]["name"] == "height"
    pipeline = {"name": "t", "dataset": {"source": made["source"], "label": "kind"}, "designs": 2,
                "space": {"depth": 1}}  # fmt: skip
    started = client.post("/api/v1/studies", json={"pipeline": pipeline})
    assert started.status_code in (200, 201, 202), started.text
    kept = services.store.runs()[0].pipeline["dataset"]
    assert (kept["sheet"], kept["format"], kept["missing_values"]) == ("more", "excel", ["7"])


@pytest.mark.parametrize(
    "wrong",
    [
        "delimiter=ab",
        "encoding=klingon",
        "encoding=base64",
        "format=zarr",
        "delimiter=%22",
        "sheets=a",
        "header=perhaps",
    ],
)
def test_a_reading_that_cannot_be_is_refused(client: TestClient, wrong: str):
    answer = client.post(
        f"/api/v1/datasets?{wrong}", content=b"a,b\n1,2\n", headers={"Content-Type": "text/csv"}
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "ascii"])
def test_a_text_of_another_encoding_than_said_is_refused(encoding: str, tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,é\n2,é\n3,x\n4,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=f"must be {encoding}"):
        received(tmp_path / "t.csv", UploadReading(encoding=encoding))


def test_options_of_another_kind_are_refused(tmp_path: Path):
    WRITERS["t.csv"](tmp_path / "t.csv")
    with pytest.raises(InputError, match="query is for databases"):
        received(tmp_path / "t.csv", UploadReading(query="trees"))


@pytest.mark.slow
def test_the_first_rows_are_shown_again_before_the_label_is_chosen(
    open_tab: Callable[..., Tab], site: Site
) -> None:
    tab = open_tab(viewport={"width": 390, "height": 844})
    page = tab.page
    tab.open("/new")
    rows = "".join(f"{i / 4};{i};{'xy'[i % 2]}\n" for i in range(1, 40)).encode()
    page.set_input_files("#file", {"name": "plain.csv", "mimeType": "text/csv", "buffer": rows})
    page.wait_for_url("**/new/*")
    assert "is taken for names" in page.inner_text(".notes")
    page.get_by_text("Read it in another way").click()
    page.get_by_label("First line").select_option("no")
    tab.wait("document.getElementById('first-rows').textContent.includes('column_1')")
    assert page.locator("#label-form").evaluate("form => form.inert")
    tab.picture("reading-phone")
    assert tab.violations() == []
    assert tab.overflow() <= 0
    page.get_by_role("button", name="Read it like this").click()
    page.get_by_label("column_3", exact=True).wait_for()
    assert page.get_by_label("First line").input_value() == "no"
    page.get_by_text("Read it in another way").click()
    page.get_by_label("Encoding").fill("utf-16")
    page.wait_for_selector("#first-rows .note.bad")
    assert tab.said == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "asked"), [
    (" ", UploadReading()), (" ", UploadReading(delimiter=" ")), ("fwf", UploadReading()),
    ("fwf", UploadReading(format="fwf")), ("fwf", UploadReading(format="fwf", encoding="utf-8")),
])  # fmt: skip
def test_blanks_part_an_upload_as_they_part_a_file(
    kind: str, asked: UploadReading, packed: bool, tmp_path: Path
):
    frame = FRAME.astype(str).replace({"width": {"0.5": ""}}) if kind == "fwf" else FRAME
    text = fixed(frame).replace("elm", "élm").encode()
    path = tmp_path / ("t.txt.gz" if packed else "t.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    upload = received(path, asked)
    found = {one.name: one for one in upload.profile.columns}
    assert dict(found["kind"].values) == {"oak": 20, "élm": 20}
    assert found["width"].missing == (kind == "fwf")
    assert upload.profile.first_rows[4][1] == "01"
    reading = dict(upload.profile.reading)
    assert reading["delimiter"] == " "
    assert reading.get("format") == ("fwf" if kind == "fwf" else None)
    dataset = ingest(Source(url=str(upload.path), **reading), Recipe(label="kind"), tmp_path / "datasets")
    same = ingest(Source(url=str(path), **asked.said()), Recipe(label="kind"), tmp_path / "datasets")
    assert dataset.id == same.id
    word = "columns of fixed width" if kind == "fwf" else "separated by blanks"
    assert any(word in note for note in upload.profile.notes)


def test_a_faulty_row_among_blanks_is_told_with_its_line(tmp_path: Path):
    (tmp_path / "t.txt").write_text(fixed(FRAME) + "1 2 3 4\n")
    with pytest.raises(DataError, match=r"row 41 \(line 42\) has 4 values"):
        received(tmp_path / "t.txt", UploadReading(delimiter=" "))
