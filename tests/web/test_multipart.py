"""Tables that are sent as forms: whatever a body is like, it is taken whole or leaves nothing behind."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from dnnflow.web.jobs.services import Services
from tests.web.served import TestClient

BOUNDARY = "----a-boundary"
TABLE = b"a,b,kind\n" + b"".join(b"%d,%d,%s\n" % (i, i * i, b"xy"[i % 2 :][:1]) for i in range(30))


def part(content: bytes, *, name: str = "file", filename: str | None = "table.csv") -> bytes:
    """Return one part of a body."""
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'
    return f"{head}Content-Type: text/csv\r\n\r\n".encode() + content + b"\r\n"


def body_of(*parts: bytes) -> bytes:
    """Return a whole body."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


WHOLE = body_of(part(b"a note", name="note", filename=None), part(TABLE))


def send(client: TestClient, body: bytes, boundary: str = BOUNDARY):
    return client.post(
        "/api/v1/datasets",
        content=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def left(services: Services) -> list[str]:
    """Return what lies in the directory of uploads."""
    directory = services.settings.workspace.home / "uploads"
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_form_is_taken_with_the_name_of_its_file(client: TestClient, services: Services) -> None:
    answer = send(client, WHOLE)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["rows"], answer.json()["name"]) == (30, "table.csv")
    upload_id = answer.json()["upload_id"]
    assert services.uploads.get(upload_id).path.read_bytes() == TABLE
    assert client.delete(f"/api/v1/datasets/{upload_id}").status_code == 204
    assert left(services) == []


@pytest.mark.parametrize(
    ("body", "boundary", "code", "rule"),
    [
        (body_of(part(b"x", name="note", filename=None)), BOUNDARY, 422, "must have a field 'file'"),
        (body_of(part(TABLE), part(TABLE)), BOUNDARY, 422, "must have one field 'file'"),
        (WHOLE[:-40], BOUNDARY, 400, "must end with its boundary"),
        (WHOLE, "another", 400, "multipart body must"),
        (WHOLE, "", 400, "must name its boundary"),
        (b"", BOUNDARY, 400, "must end with its boundary"),
        (body_of(part(TABLE + b"1,2\n")), BOUNDARY, 422, "row 31"),
        (
            WHOLE.replace(b"Content-Type", b"X" * 9000),
            BOUNDARY,
            400,
            "must be well formed, got: Maximum header",
        ),
    ],
)
def test_a_bad_form_is_explained_and_leaves_nothing(
    client: TestClient, services: Services, body: bytes, boundary: str, code: int, rule: str
) -> None:
    answer = send(client, body, boundary)
    assert answer.status_code == code, answer.text
    assert rule in answer.json()["detail"]
    assert left(services) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\x.csv", "a\x00b.csv", "é" * 3000, ""]
)
def test_a_name_is_only_shown(client: TestClient, services: Services, name: str, tmp_path: Path) -> None:
    answer = send(client, body_of(part(TABLE, filename=name)))
    assert answer.status_code in (201, 400, 422), answer.text
    inside = services.settings.workspace.home.resolve()
    assert all(inside in path.resolve().parents for path in tmp_path.rglob("*.csv"))


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(("cut", "put", "swap", "double")),
        st.integers(0, len(WHOLE)),
        st.one_of(
            st.binary(min_size=1, max_size=20),
            st.sampled_from(
                (b"\r\n", b"--" + BOUNDARY.encode(), b"--", b'"', b"\x00", b"name=", b"\xff\xfe")
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@rounds(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(MUTATIONS)
def test_no_form_leaves_a_file_unless_it_was_taken(
    client: TestClient, services: Services, mutations: list[tuple[str, int, bytes]]
) -> None:
    body = WHOLE
    for kind, at, data in mutations:
        if kind == "cut":
            body = body[:at]
        elif kind == "put":
            body = body[:at] + data + body[at:]
        elif kind == "swap":
            body = body[:at] + data + body[at + len(data) :]
        else:
            body = body[:at] + body[max(0, at - 200) :]
    answer = send(client, body)
    assert answer.status_code in (201, 400, 413, 422), (answer.status_code, answer.text)
    if answer.status_code == 201:
        client.delete(f"/api/v1/datasets/{answer.json()['upload_id']}")
    else:
        assert {"type", "title", "status", "detail"} <= set(answer.json())
    assert left(services) == []
