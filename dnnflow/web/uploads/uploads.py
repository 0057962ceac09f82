"""Tables that were sent to the web server: received, checked as they arrive, kept for a while."""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import unicodedata
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dnnflow.errors import BusyError, ConflictError, NotFoundError
from dnnflow.paths import write_file
from dnnflow.results.store.study_record import new_study_id
from dnnflow.table.text.source_text import compression_of
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import Profile
from dnnflow.web.uploads.reception import Reception

RECORD = "upload.json"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{15}")
_ASIDE = ".incoming-"
_KEYS = ".keys"
_OWNER = "owner.lock"
_NAME_LENGTH = 120
_ENDINGS = {None: "table.csv", "gzip": "table.csv.gz", "zstd": "table.csv.zst"}


@dataclass(frozen=True)
class Upload:
    """A table that was received whole and can be read."""

    upload_id: str
    """Random and URL-safe; also names its directory."""
    name: str
    """What the sender called the file; only ever shown."""
    path: Path
    """Of the text as it was sent: table.csv, table.csv.gz or table.csv.zst."""
    size_bytes: int
    digest: str
    """sha256 of what was sent."""
    created_at: str
    expires_at: str
    profile: Profile


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
        self._known: dict[str, Upload] = {}

    async def receive(self, parts: AsyncIterator[bytes], *, name: str, key: str | None = None) -> Upload:
        """Take a table as it streams in, checking it meanwhile in a process of its own.

        Parameters
        ----------
        parts
            Of the body, a plain, gzip or zstd CSV.
        name
            To show.
        key
            Idempotency key: the same key and the same bytes give the same upload again.

        Raises
        ------
        DataError
            For everything wrong with the table, with row and column; nothing of it remains.
        LimitError
            If it is larger than allowed, or too slow.
        ConflictError
            If the key was used with other bytes.
        """
        if self._receiving >= self._limits.at_once:
            raise BusyError(
                f"a server may receive at most {self._limits.at_once} uploads at once, got one more; "
                "try again when one of them is done"
            )
        self._receiving += 1
        try:
            async with self._aside() as aside:
                reception = Reception(aside, shown_name(name), self._limits)
                profile = await reception.run(parts)
                return await self._kept(aside, reception, profile, key)
        finally:
            self._receiving -= 1

    def get(self, upload_id: str) -> Upload:
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

    def all(self) -> list[Upload]:
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
        aside = self._directory / f"{_ASIDE}{new_study_id()}"
        aside.mkdir()
        try:
            with (aside / _OWNER).open("wb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX)
                yield aside
        finally:
            # In a thread: to remove a file of some GB takes long enough for others to notice.
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True))

    async def _kept(self, aside: Path, reception: Reception, profile: Profile, key: str | None) -> Upload:
        """Keep an upload in a thread: behind a table of some GB, to flush a file takes a while.

        Of a request that is cancelled meanwhile nothing is kept.
        """
        keeping = asyncio.ensure_future(asyncio.to_thread(self._keep, aside, reception, profile, key))
        try:
            return await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await asyncio.wait([keeping])  # what it works on is removed next
            if not keeping.cancelled() and keeping.exception() is None:
                made = keeping.result().upload_id
                if made == aside.name.removeprefix(_ASIDE):
                    self.delete(made)
            raise

    def _keep(self, aside: Path, reception: Reception, profile: Profile, key: str | None) -> Upload:
        """Give a checked upload its place, or return the one that has the key."""
        with self._keeping:
            return self._keep_alone(aside, reception, profile, key)

    def _keep_alone(self, aside: Path, reception: Reception, profile: Profile, key: str | None) -> Upload:
        digest = reception.digest
        key_path = self._directory / _KEYS / f"{_hash(key)}.json" if key is not None else None
        if key_path is not None and (earlier := self._earlier(key_path, digest)) is not None:
            return earlier
        upload_id = aside.name.removeprefix(_ASIDE)
        path = self._directory / upload_id
        ready = aside / "ready"
        ready.mkdir()
        ending = _ENDINGS[compression_of(reception.beginning)]
        os.rename(reception.path, ready / ending)
        now = datetime.now(UTC)
        expires = _text(now + timedelta(seconds=self._limits.kept_s))
        upload = Upload(
            upload_id, reception.name, path / ending, reception.size, digest, _text(now), expires, profile
        )
        values = {**asdict(replace(upload, path=Path(ending))), "path": ending}
        write_file(ready / RECORD, json.dumps(values))
        os.rename(ready, path)
        if key_path is not None:
            write_file(key_path, json.dumps({"upload_id": upload_id, "digest": digest}))
        self._known[upload_id] = upload
        return upload

    def _earlier(self, key_path: Path, digest: str) -> Upload | None:
        """Return the upload that was made with a key, unless it is gone."""
        try:
            made = json.loads(key_path.read_bytes())
            upload = self.get(made["upload_id"])
        except (OSError, ValueError, KeyError, NotFoundError):
            return None
        if made["digest"] != digest:
            raise ConflictError(
                f"an idempotency key stands for one table, got other bytes than those of {upload.name!r}; "
                "send another key"
            )
        return upload


def shown_name(name: str) -> str:
    """Return a file's name as it may be shown: its last part, on one line, not too long."""
    last = re.split(r"[\\/]", name)[-1]
    plain = "".join(sign for sign in last if unicodedata.category(sign)[0] != "C").strip()
    return plain[:_NAME_LENGTH] or "table.csv"


def _upload(path: Path) -> Upload:
    values = json.loads(path.read_bytes())
    profile = Profile.from_dict(values.pop("profile"))
    return Upload(**{**values, "path": path.parent / values["path"], "profile": profile})


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


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
