"""Take one file out of a multipart body, as it streams in."""

from collections.abc import AsyncIterator

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from dnnflow.web.contract.problems import Refusal

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
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not 0 < len(boundary) <= 70:
            raise Refusal(400, "a multipart body must name its boundary in Content-Type, got none")
        self.name: str | None = None
        """What the sender calls the file; known once its first bytes are there."""
        self._is_file = self._was_found = self._is_whole = False
        self._header = {"field": b"", "value": b""}
        self._parts: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda data, start, end: self._add("field", data[start:end]),
                "on_header_value": lambda data, start, end: self._add("value", data[start:end]),
                "on_header_end": self._end_header,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def parts(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the file's bytes as the body streams in.

        Raises
        ------
        Refusal
            If the body is malformed, ends early, or has no such field.
        """
        async for chunk in body:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Refusal(400, f"a multipart body must be well formed, got: {error}"[:300]) from error
            parts, self._parts = self._parts, []
            for part in parts:
                yield part
        if not self._is_whole:
            raise Refusal(
                400, "a multipart body must end with its boundary, got one that was cut off; send it again"
            )
        if not self._was_found:
            raise Refusal(422, f"a multipart body must have a field {FIELD!r} with the table, got none")

    def _add(self, place: str, data: bytes) -> None:
        self._header[place] += data  # the parser refuses a header that is too long

    def _end_header(self) -> None:
        name, value = self._header.values()
        self._header = {"field": b"", "value": b""}
        if name.lower() != b"content-disposition":
            return
        options = parse_options_header(value)[1]
        self._is_file = options.get(b"name") == FIELD.encode()
        if self._is_file and self._was_found:
            raise Refusal(422, f"a multipart body must have one field {FIELD!r}, got several; send one table")
        if self._is_file:
            self._was_found, self.name = True, options.get(b"filename", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._parts.append(data[start:end])

    def _end_part(self) -> None:
        self._is_file = False

    def _end(self) -> None:
        self._is_whole = True
