"""Tables that were sent to the web server: received, checked as they arrive, kept for a while."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from dnnflow.web.limits import UploadLimits
from dnnflow.web.profile import Profile


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

    Parameters
    ----------
    directory
        One directory an upload; made on first use.
    limits
        More is refused.
    """

    def __init__(self, directory: Path, limits: UploadLimits) -> None:
        self._directory, self._limits = directory, limits

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
        raise NotImplementedError

    def get(self, upload_id: str) -> Upload:
        """Return an upload.

        Raises
        ------
        NotFoundError
            If there is none, or no longer.
        """
        raise NotImplementedError

    def all(self) -> list[Upload]:
        """Return all uploads, the newest first."""
        raise NotImplementedError

    def delete(self, upload_id: str) -> None:
        """Forget an upload; studies keep their dataset."""
        raise NotImplementedError

    def expire(self) -> int:
        """Delete what is kept no longer and what was left by a server that died; return how many."""
        raise NotImplementedError
