"""Receive tables that are sent, check them as they arrive, keep them for a while."""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from dnnflow.errors import BusyError, ConflictError, DataError, LimitError, NotFoundError
from dnnflow.paths import write_file
from dnnflow.results.store.run_record import new_study_id
from dnnflow.table.text.source_text import MAGIC_BYTES, compression_of
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.reading import UploadReading

RECORD = "upload.json"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{15}")
_ASIDE = ".incoming-"
_KEYS = ".keys"
_OWNER = "owner.lock"
_NAME_LENGTH = 120
_ENDINGS = {None: "", "gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "xz": ".xz"}

P = ParamSpec("P")
T = TypeVar("T")

_WRITE_BYTES = 1 << 20
_AHEAD_BYTES = 32 << 20
"""How far receiving may be ahead of the parser."""
_EXIT_S = 5.0
_LINE_BYTES = 512 << 20
"""A profile is one line."""

AS_FOUND = UploadReading()
"""Nothing is said of how to read a file."""


@dataclass(frozen=True)
class WebUpload:
    """A table that was received whole and can be read."""

    upload_id: str
    """Random and URL-safe; also names its directory."""
    name: str
    """What the sender called the file; only ever shown."""
    path: Path
    """Of the file as it was sent: table.csv, table.csv.gz, table.parquet, …, by its kind when it came."""
    size_bytes: int
    digest: str
    """sha256 of what was sent."""
    created_at: str
    expires_at: str
    profile: Profile
    asked: UploadReading = AS_FOUND
    """How it is to be read, where that is said."""


class Receiver:
    """One upload on its way in: its file, and the process that parses it."""

    def __init__(self, aside: Path, name: str, limits: UploadLimits, asked: UploadReading) -> None:
        self.path, self.name, self.asked, self._limits = aside / "table", name, asked, limits
        self._scratch = aside / "scratch"
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

    @property
    def content(self) -> str:
        """Return what tells uploads apart: bytes, and how they are read."""
        said = self.asked.said()
        return self.digest + (json.dumps(said, sort_keys=True) if said else "")

    async def run(self, parts: AsyncIterator[bytes] | None, *, only_look: bool = False) -> Profile:
        """Write and check the table; the process has ended when this returns or raises.

        Without parts the file of `path` is there already. A look gives names and first rows only.
        """
        self._scratch.mkdir()
        if parts is not None:
            self.path.touch()
        process = await self._start("look" if only_look else "profile")
        listening = asyncio.ensure_future(self._listen(process))
        try:
            try:
                async with asyncio.timeout(self._limits.seconds_s):
                    if parts is not None:
                        await self._receive(parts, process)
                    else:
                        _tell(process, f"{self.path.stat().st_size}\nend")
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

    async def _start(self, what: str) -> asyncio.subprocess.Process:
        source = self.asked.source(self.name).model_dump(mode="json")
        source["missing_values"] = self.asked.missing_values
        described = str(self._scratch), what, json.dumps(source), json.dumps(asdict(self._limits))
        with self._log.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dnnflow.web.uploads.profiler", str(self.path), *described,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=_LINE_BYTES,
            )  # fmt: skip

    async def _receive(self, parts: AsyncIterator[bytes], process: asyncio.subprocess.Process) -> None:
        """Write parts as they come; returns early when the parser has answered."""
        loop = asyncio.get_running_loop()

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
                            _tell(process, f"{self.size}")
                            batch, length = [], 0
                            await self._not_too_far()
                        if part is None:
                            _tell(process, "end")
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
        try:
            await _in_thread(self._write, file, batch)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise LimitError(
                f"an upload needs room on the server's disk, got none left after {self.size} bytes; delete "
                "uploads that are not needed, or send a smaller table"
            ) from None

    def _write(self, file: Any, batch: list[bytes]) -> None:
        data = b"".join(batch)
        if len(self.beginning) < MAGIC_BYTES:
            self.beginning = (self.beginning + data[:MAGIC_BYTES])[:MAGIC_BYTES]
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


def _tell(process: asyncio.subprocess.Process, line: str) -> None:
    if process.stdin is not None and not process.stdin.is_closing():
        process.stdin.write(f"{line}\n".encode())


async def _in_thread(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Work in a thread, which has ended when this returns or raises: what it works on may be removed then."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **named))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


async def _end(process: asyncio.subprocess.Process, answered: bool) -> None:
    """End a parser process and reap it."""
    try:
        async with asyncio.timeout(_EXIT_S if answered else 0):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)  # `kill` would reap it, which the loop is to do
        await process.wait()


class Uploads:
    """Receives, keeps, finds and forgets uploads under one directory.

    Safe for threads, but for `receive`, which belongs to one event loop.

    Parameters
    ----------
    directory
        One directory an upload; made on first use.
    limits
        More is refused.
    """

    def __init__(self, directory: Path, limits: UploadLimits) -> None:
        self._directory, self._limits = directory, limits
        self._receiving = 0
        self._keeping = threading.Lock()  # a key is looked for and taken by one at a time
        self._known: dict[str, WebUpload] = {}

    async def receive(
        self,
        parts: AsyncIterator[bytes],
        *,
        name: str,
        key: str | None = None,
        asked: UploadReading = AS_FOUND,
    ) -> WebUpload:
        """Take a table as it streams in, checking it meanwhile in a process of its own.

        Parameters
        ----------
        parts
            Of the body: a file of any kind that can be read, plain, gzip or zstd.
        name
            To show.
        key
            Idempotency key: the same key and the same bytes give the same upload again.
        asked
            How to read it.

        Raises
        ------
        DataError
            For everything wrong with the table, with row and column; nothing of it remains.
        LimitError
            If it is larger than allowed, or too slow.
        ConflictError
            If the key was used with other bytes.
        """
        with self._one_more():
            async with self._aside() as aside:
                receiver = Receiver(aside, display_name(name), self._limits, asked)
                profile = await receiver.run(parts)
                return await self._kept(aside, receiver, profile, key)

    async def read_again(self, upload_id: str, asked: UploadReading) -> WebUpload:
        """Read an upload in another way; it stays as it was where that is not possible.

        Raises
        ------
        NotFoundError
            If there is none.
        DataError
            For everything wrong with the table, read like that.
        LimitError
            If it is larger than allowed, or too slow.
        """
        upload = self.get(upload_id)
        profile = await self._read(upload, asked)
        self.get(upload_id)  # it may have been deleted meanwhile
        read = replace(upload, profile=profile, asked=asked)
        self._write(upload.path.parent, read)
        self._known[upload_id] = read
        return read

    async def look(self, upload_id: str, asked: UploadReading) -> Profile:
        """Return the names and first rows of an upload as they would be, read in another way.

        Raises
        ------
        NotFoundError
            If there is none.
        DataError
            If it cannot be read like that.
        """
        return await self._read(self.get(upload_id), asked, only_look=True)

    async def _read(self, upload: WebUpload, asked: UploadReading, *, only_look: bool = False) -> Profile:
        with self._one_more():
            async with self._aside() as aside:
                receiver = Receiver(aside, upload.name, self._limits, asked)
                receiver.path = upload.path
                return await receiver.run(None, only_look=only_look)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        """Count one that is received or read, or refuse it."""
        if self._receiving >= self._limits.at_once:
            raise BusyError(
                f"a server may receive at most {self._limits.at_once} uploads at once, got one more; "
                "try again when one of them is done"
            )
        self._receiving += 1
        try:
            yield
        finally:
            self._receiving -= 1

    def _write(self, folder: Path, upload: WebUpload) -> None:
        record = {name: getattr(upload, name) for name in (field.name for field in fields(upload))}
        record |= {
            "path": upload.path.name,
            "profile": upload.profile.to_dict(),
            "asked": upload.asked.said(),
        }
        write_file(folder / RECORD, json.dumps(record))

    def get(self, upload_id: str) -> WebUpload:
        """Return an upload.

        Raises
        ------
        NotFoundError
            If there is none, or no longer.
        """
        path = self._directory / upload_id / RECORD if _ID.fullmatch(upload_id) else None
        if path is None or not path.is_file():
            self._known.pop(upload_id, None)
            raise NotFoundError(
                f"there is no upload {upload_id[:40]!r}; it may have expired: send the table again"
            )
        if upload_id not in self._known:
            self._known[upload_id] = _upload(path)
        return self._known[upload_id]

    def all(self) -> list[WebUpload]:
        """Return all uploads, the newest first."""
        found = []
        for path in self._directory.glob(f"*/{RECORD}"):
            with suppress(NotFoundError, OSError, ValueError, KeyError, TypeError):
                found.append(self.get(path.parent.name))
        return sorted(found, key=lambda upload: upload.created_at, reverse=True)

    def delete(self, upload_id: str) -> None:
        """Forget an upload; studies keep their dataset.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        self.get(upload_id)
        self._known.pop(upload_id, None)
        for path in self._directory.glob(f"{_KEYS}/*.json"):
            with suppress(OSError, ValueError, KeyError):
                if json.loads(path.read_bytes())["upload_id"] == upload_id:
                    path.unlink()
        shutil.rmtree(self._directory / upload_id, ignore_errors=True)

    def expire(self, keep: Collection[str] = ()) -> int:
        """Delete what is kept no longer and what was left by a server that died.

        Parameters
        ----------
        keep
            Ids of uploads that are still needed, however old.

        Returns
        -------
        int
            How many were deleted.
        """
        now = _text(datetime.now(UTC))
        old = [u.upload_id for u in self.all() if u.expires_at < now and u.upload_id not in keep]
        for upload_id in old:
            with suppress(NotFoundError):
                self.delete(upload_id)
        dead = [path for path in self._directory.glob(f"{_ASIDE}*") if not _is_owned(path)]
        for path in dead:
            shutil.rmtree(path, ignore_errors=True)
        return len(old) + len(dead)

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[Path]:
        """Yield an empty directory that is removed at the end; a lock says that its server lives."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = new_study_id()
        begun, aside = self._directory / f".{name}", self._directory / f"{_ASIDE}{name}"
        begun.mkdir()
        try:
            with (begun / _OWNER).open("wb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX)
                os.rename(begun, aside)  # by now locked: without its lock `expire` would take it for left
                yield aside
        finally:
            # In a thread: to remove a file of some GB takes long enough for others to notice.
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True))

    async def _kept(self, aside: Path, receiver: Receiver, profile: Profile, key: str | None) -> WebUpload:
        """Keep an upload in a thread: behind a table of some GB, to flush a file takes a while.

        Of a request that is cancelled meanwhile nothing is kept.
        """
        try:
            return await _in_thread(self._keep, aside, receiver, profile, key)
        except asyncio.CancelledError:
            with suppress(NotFoundError):
                self.delete(aside.name.removeprefix(_ASIDE))
            raise

    def _keep(self, aside: Path, receiver: Receiver, profile: Profile, key: str | None) -> WebUpload:
        """Give a checked upload its place, or return the one that has the key."""
        hashed = hashlib.sha256(key.encode()).hexdigest() if key is not None else ""
        key_path = self._directory / _KEYS / f"{hashed}.json" if hashed else None
        with self._keeping:
            earlier = self._earlier(key_path, receiver.content) if key_path is not None else None
            return earlier or self._keep_new(aside, receiver, profile, key_path)

    def _keep_new(
        self, aside: Path, receiver: Receiver, profile: Profile, key_path: Path | None
    ) -> WebUpload:
        upload_id, digest = aside.name.removeprefix(_ASIDE), receiver.digest
        path = self._directory / upload_id
        ready = aside / "ready"
        ready.mkdir()
        kind = profile.reading.get("format", "csv")
        ending = f"table.{kind}{_ENDINGS[compression_of(receiver.beginning)]}"
        os.rename(receiver.path, ready / ending)
        now = datetime.now(UTC)
        expires = _text(now + timedelta(seconds=self._limits.kept_s))
        upload = WebUpload(
            upload_id, receiver.name, path / ending, receiver.size, digest, _text(now), expires, profile,
            receiver.asked,
        )  # fmt: skip
        self._write(ready, upload)
        os.rename(ready, path)
        if key_path is not None:
            write_file(key_path, json.dumps({"upload_id": upload_id, "digest": receiver.content}))
        self._known[upload_id] = upload
        return upload

    def _earlier(self, key_path: Path, content: str) -> WebUpload | None:
        """Return the upload that was made with a key, unless it is gone."""
        try:
            made = json.loads(key_path.read_bytes())
            upload = self.get(made["upload_id"])
        except (OSError, ValueError, KeyError, NotFoundError):
            return None
        if made["digest"] != content:
            raise ConflictError(
                f"an idempotency key stands for one table, got other bytes than those of {upload.name!r}, "
                "or another reading; send another key"
            )
        return upload


def display_name(name: str) -> str:
    """Return a file's name as it may be shown: its last part, on one line, not too long."""
    last = re.split(r"[\\/]", name)[-1]
    plain = "".join(sign for sign in last if unicodedata.category(sign)[0] != "C").strip()
    return plain[:_NAME_LENGTH] or "table.csv"


def _upload(path: Path) -> WebUpload:
    values = json.loads(path.read_bytes())
    profile = Profile.from_dict(values.pop("profile"))
    asked = UploadReading.model_validate(values.pop("asked", {}))
    return WebUpload(**{**values, "path": path.parent / values["path"], "profile": profile, "asked": asked})


def _is_owned(aside: Path) -> bool:
    """Say whether the server lives that receives into a directory."""
    try:
        with (aside / _OWNER).open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
