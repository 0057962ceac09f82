"""One file out of a multipart body, as it streams in."""

from collections.abc import AsyncIterator
from email.message import Message

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from dnnflow.web.contract.problems import Refusal

MOST_HEADER_BYTES = 8192
FIELD = "file"


class FileField:
    """Finds the field `file` of a multipart body and hands its bytes on; other fields are left out.

    Parameters
    ----------
    content_type
        Of the request.

    Raises
    ------
    Refusal
        If it names no boundary.
    """

    def __init__(self, content_type: str) -> None:
        boundary = parameter_of(content_type, "boundary")
        if not boundary or len(boundary) > 70:
            raise Refusal(400, "a multipart body must name its boundary in Content-Type, got none")
        self.name: str | None = None
        """What the sender calls the file; known once its first bytes are there."""
        self._is_file = self._was_found = self.is_whole = False
        self._header = [b"", b""]
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        callbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary.encode("latin-1", "replace"), callbacks)  # type: ignore[arg-type]

    async def parts(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the file's bytes as the body streams in.

        Raises
        ------
        Refusal
            If the body is malformed, ends early, or has no such field.
        """
        async for chunk in body:
            if not chunk:
                continue
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Refusal(400, f"a multipart body must be well formed, got: {error}"[:300]) from error
            parts, self._parts = self._parts, []
            for part in parts:
                yield part
        if not self.is_whole:
            raise Refusal(
                400, "a multipart body must end with its boundary, got one that was cut off; send it again"
            )
        if not self._was_found:
            raise Refusal(422, f"a multipart body must have a field {FIELD!r} with the table, got none")

    def _begin(self) -> None:
        self._headers, self._header = {}, [b"", b""]

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._add(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add(1, data[start:end])

    def _add(self, place: int, data: bytes) -> None:
        self._header[place] += data
        if len(self._header[place]) > MOST_HEADER_BYTES:
            raise Refusal(400, f"a part's header has {MOST_HEADER_BYTES:,} bytes or less, got more")

    def _end_header(self) -> None:
        name, value = (part.decode("utf-8", "replace") for part in self._header)
        self._headers[name.lower()], self._header = value, [b"", b""]

    def _end_headers(self) -> None:
        disposition = self._headers.get("content-disposition", "")
        self._is_file = parameter_of(disposition, "name", header=True) == FIELD
        if self._is_file:
            if self._was_found:
                raise Refusal(
                    422, f"a multipart body must have one field {FIELD!r}, got several; send one table"
                )
            self._was_found = True
            self.name = parameter_of(disposition, "filename", header=True)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._parts.append(bytes(data[start:end]))

    def _end_part(self) -> None:
        self._is_file = False

    def _end(self) -> None:
        self.is_whole = True


def parameter_of(value: str, name: str, *, header: bool = False) -> str | None:
    """Return a parameter of a header's value, e.g. the boundary of `multipart/form-data; boundary=x`."""
    message = Message()
    message["content-disposition" if header else "content-type"] = value.replace("\r", " ").replace("\n", " ")
    found = message.get_param(name, header="content-disposition" if header else "content-type")
    if isinstance(found, tuple):  # filename*=utf-8''…
        found = found[2]
    return str(found) if found is not None else None
