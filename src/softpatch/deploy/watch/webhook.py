"""Verdicts are posted to a web address, as JSON."""

import http.client
from functools import partial
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from softpatch.errors import InputError

_TIMEOUT = 10.0  # seconds without an answer
_LONGEST_TOKEN = 10_000


def post_to(url: str, token_file: Path | None = None) -> partial[None]:
    """What sends a message by POST to `url`, as `delivery.Send`; an answer of 200 to 299 takes it.

    `token_file` holds a token for the header `Authorization: Bearer`, read anew for every message. A redirection is
    not followed, since it would lose the message or show the token to another host. Raises `InputError` for an address
    that is none of http or https, and where the token cannot be read.
    """
    _check_url(url)
    if token_file is not None:
        _token(token_file)
    return partial(_post, url, token_file, build_opener(_NoRedirect))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"`webhook` is {url!r}; it must be an address such as https://plant.example/verdicts")
    if parts.username is not None or parts.password is not None:
        raise InputError("`webhook` holds a user or a password; give a token as `webhook_token_file` instead")


def _token(path: Path) -> str:
    try:
        token = path.read_bytes()[: _LONGEST_TOKEN + 1].decode("ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise InputError(f"`webhook_token_file` {path} cannot be read: {reason}") from error
    if not token or not token.isprintable() or len(token) > _LONGEST_TOKEN:
        raise InputError(f"`webhook_token_file` {path} must hold one line, the token")
    return token


def _post(url: str, token_file: Path | None, opener: OpenerDirector, content: bytes) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "softpatch"}
    try:
        if token_file is not None:
            headers["Authorization"] = f"Bearer {_token(token_file)}"
        with opener.open(Request(url, content, headers, method="POST"), timeout=_TIMEOUT) as answer:
            if not 200 <= answer.status < 300:
                raise ConnectionError(f"the receiver answers {answer.status}")
    except HTTPError as error:
        error.close()
        raise ConnectionError(f"the receiver answers {error.code} {error.reason}") from error
    except URLError as error:
        raise ConnectionError(f"the receiver cannot be reached ({error.reason})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConnectionError(f"the receiver cannot be reached ({error or type(error).__name__})") from error


class _NoRedirect(HTTPRedirectHandler):
    """Makes an answer that leads elsewhere an error."""

    def redirect_request(self, *_: object) -> None:
        return None
