"""One upload on its way in: written to a file aside, and parsed meanwhile by a process of its own."""

import asyncio
import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError, LimitError
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import Profile

_WRITE_BYTES = 1 << 20
_AHEAD_BYTES = 32 << 20
"""How far receiving may be ahead of the parser."""
_EXIT_S = 5.0
_LINE_BYTES = 512 << 20
"""A profile is one line."""


class Reception:
    """One upload on its way in: its file, and the process that parses it."""

    def __init__(self, aside: Path, name: str, limits: UploadLimits) -> None:
        self.path, self.name, self._limits = aside / "table", name, limits
        self.size = 0
        self.beginning = b""
        self._log = aside / "parser.log"
        self._hash = hashlib.sha256()
        self._read = 0
        self._moved = asyncio.Event()
        self._answer: dict[str, Any] | None = None
        self._deadline: asyncio.Timeout | None = None

    @property
    def digest(self) -> str:
        """Return the sha256 of what was received."""
        return self._hash.hexdigest()

    async def run(self, parts: AsyncIterator[bytes]) -> Profile:
        """Write and check the table; the process has ended when this returns or raises."""
        self.path.touch()
        process = await self._start()
        listening = asyncio.ensure_future(self._listen(process))
        try:
            try:
                async with asyncio.timeout(self._limits.seconds_s):
                    await self._receive(parts, process)
                    await listening
            except TimeoutError:
                if self._answer is None:
                    raise LimitError(
                        f"an upload may take at most {self._limits.seconds_s:g} s, got more; send a smaller "
                        "table, or compress it"
                    ) from None
            return self._profile()
        finally:
            listening.cancel()
            await asyncio.shield(_end(process, self._answer is not None))

    async def _start(self) -> asyncio.subprocess.Process:
        limits = json.dumps(asdict(self._limits))
        with self._log.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dnnflow.web.uploads.profiler",
                str(self.path),
                self.name,
                limits,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
            )

    async def _receive(self, parts: AsyncIterator[bytes], process: asyncio.subprocess.Process) -> None:
        """Write parts as they come; returns early when the parser has answered."""
        loop = asyncio.get_running_loop()
        told = process.stdin
        with self.path.open("wb", buffering=0) as file:
            batch: list[bytes] = []
            length = 0
            try:
                async with asyncio.timeout(None) as self._deadline:
                    while self._answer is None:
                        self._deadline.reschedule(loop.time() + self._limits.stall_s)
                        part = await anext(parts, None)
                        self._deadline.reschedule(None)
                        if part is not None:
                            batch.append(part)
                            length += len(part)
                            self._check_size(length)
                        if batch and (part is None or length >= _WRITE_BYTES or self.size < _WRITE_BYTES):
                            await self._written(file, batch)
                            _tell(told, f"{self.size}\n")
                            batch, length = [], 0
                            await self._not_too_far()
                        if part is None:
                            _tell(told, "end\n")
                            return
            except TimeoutError:
                if self._answer is None:
                    raise LimitError(
                        f"a part of an upload must come within {self._limits.stall_s:g} s of the one before, "
                        "got none; send the table again over a steadier connection"
                    ) from None

    def _check_size(self, length: int) -> None:
        if self.size + length > self._limits.stored_bytes:
            raise LimitError(
                f"an upload may have at most {self._limits.stored_bytes} bytes, got more; compress it, "
                "or send fewer rows"
            )

    async def _written(self, file: Any, batch: list[bytes]) -> None:
        """Write in a thread; it has ended when this returns or raises, so that the file can be closed."""
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, file, batch))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise LimitError(
                f"an upload needs room on the server's disk, got none left after {self.size} bytes; delete "
                "uploads that are not needed, or send a smaller table"
            ) from None

    def _write(self, file: Any, batch: list[bytes]) -> None:
        data = b"".join(batch)
        if len(self.beginning) < 4:
            self.beginning = (self.beginning + data[:4])[:4]
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        self.size += len(data)

    async def _not_too_far(self) -> None:
        """Wait until the parser is near enough, or has answered."""
        while self._answer is None and self.size - self._read > _AHEAD_BYTES:
            self._moved.clear()
            await self._moved.wait()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Hear the parser until it has answered or ended."""
        answer: dict[str, Any] = {}
        while process.stdout is not None and (line := await process.stdout.readline()):
            said = json.loads(line)
            if "read" in said:
                self._read = said["read"]
                self._moved.set()
            else:
                answer = said
        self._answer = answer
        self._moved.set()
        if self._deadline is not None:
            with suppress(RuntimeError):  # receiving is over
                self._deadline.reschedule(asyncio.get_running_loop().time())

    def _profile(self) -> Profile:
        answer = self._answer or {}
        if "limit" in answer:
            raise LimitError(answer["limit"])
        if "error" in answer:
            raise DataError(answer["error"])
        if "profile" not in answer:
            end = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the parser process of an upload ended without an answer: {end}")
        return Profile.from_dict(answer["profile"])


async def _end(process: asyncio.subprocess.Process, answered: bool) -> None:
    """End a parser process and reap it."""
    try:
        async with asyncio.timeout(_EXIT_S if answered else 0):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # `kill` would reap it, which the loop is to do
        await process.wait()


def _tell(stream: asyncio.StreamWriter | None, line: str) -> None:
    if stream is not None and not stream.is_closing():
        stream.write(line.encode())
