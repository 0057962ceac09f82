"""Keep logins: signed cookies and CSRF tokens that outlive a restart of the server."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from dnnflow.errors import InputError
from dnnflow.paths import write_file

COOKIE = "dnnflow_session"
KEPT_S = 7 * 86400
"""How long a login lasts."""
SHORTEST_TOKEN = 16
MOST_REVOKED = 4096


class Sessions:
    """Makes and checks cookies; safe for threads.

    A cookie is `kind.issued.random.signature`. Kind is `in` after a login, and `an` (anonymous) for browsers
    that need none: they have it for the CSRF token of their forms.

    Parameters
    ----------
    token
        What a person logs in with; None where nobody has to.
    secret
        Key of the signatures.
    """

    def __init__(self, token: str | None, secret: bytes) -> None:
        self._token = token
        self._key = hmac.digest(secret, f"dnnflow sessions {token or ''}".encode(), hashlib.sha256)
        self._revoked: OrderedDict[str, None] = OrderedDict()

    @property
    def needs_login(self) -> bool:
        """Whether somebody without a session or the token is turned away."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether this is the token, found out in constant time."""
        expected = self._token or secrets.token_hex()
        return hmac.compare_digest(_digest(given), _digest(expected))

    def new(self, *, logged_in: bool) -> str:
        """Return a new session as a cookie's value."""
        text = f"{'in' if logged_in else 'an'}.{int(time.time())}.{secrets.token_urlsafe(18)}"
        return f"{text}.{self._sign('session', text)}"

    def is_valid(self, cookie: str | None, *, logged_in: bool | None = None) -> bool:
        """Whether a cookie is one of ours, not too old, and (if asked) of somebody who has logged in."""
        text, _, signature = (cookie or "").rpartition(".")
        parts = text.split(".")
        if len(parts) != 3 or not hmac.compare_digest(
            _digest(signature), _digest(self._sign("session", text))
        ):
            return False
        if cookie in self._revoked or time.time() - int(parts[1]) > KEPT_S:
            return False
        return logged_in is None or (parts[0] == "in") == logged_in

    def end(self, cookie: str) -> None:
        """Let a session count no longer."""
        self._revoked[cookie] = None
        while len(self._revoked) > MOST_REVOKED:
            self._revoked.popitem(last=False)

    def csrf_token(self, cookie: str) -> str:
        """Return what a form of this session carries."""
        return self._sign("csrf", cookie)

    def is_csrf_token(self, cookie: str | None, given: str | None) -> bool:
        """Whether a form's token belongs to the session that sends it."""
        if not cookie or not given or not self.is_valid(cookie):
            return False
        return hmac.compare_digest(_digest(given), _digest(self.csrf_token(cookie)))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    """Return a hash of fixed length, so that comparing tells nothing of the text's length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def check_token(token: str) -> None:
    """Refuse a token that could be guessed.

    Raises
    ------
    InputError
        If it is short.
    """
    if len(token) < SHORTEST_TOKEN:
        raise InputError(f"a token must have {SHORTEST_TOKEN} characters or more, got {len(token)}; "
                         "leave it out and one is made")  # fmt: skip


def read_secret(path: Path) -> bytes:
    """Return the key of this installation's signatures, made when first asked for."""
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    if len(known) < 32:
        known = secrets.token_bytes(32)
        write_file(path, known)
        path.chmod(0o600)
    return known


def cookie_of(headers: Mapping[str, str]) -> str | None:
    """Return the session's cookie among a request's headers."""
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return None
