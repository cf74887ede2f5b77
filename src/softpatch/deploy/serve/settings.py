"""What `softpatch serve` is told, in one frozen record; nothing slow is imported, so that it is checked first."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import isfinite
from pathlib import Path

from softpatch.config import Runtime
from softpatch.errors import InputError

TOKEN_VARIABLE = "SOFTPATCH_TOKEN"
"""The environment variable that may hold the token, in place of a file."""
_RANGES = (("batch_wait", "milliseconds", 0), ("timeout", "seconds", 0.1), ("drain", "seconds", 0))
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 1000


@dataclass(frozen=True)
class ServeSettings:
    """Which models are served, where, and within which limits.

    `models` are model files and folders of them. At most `loaded` of them are in memory at once. Up to
    `runtime.batch_size` images that wait for the same model are judged together, and an image waits at most
    `batch_wait` milliseconds for others. A request has at most `max_request_mb` megabytes, also unpacked, and
    `timeout` seconds from its first byte to its answer; more than `max_in_flight` at once are turned away. On a signal
    to end, the server says for `drain` seconds that it is not ready before it takes no more. Where a `token` is given,
    all but the page and the health of the server needs it; without one only this computer may ask, unless `insecure`.
    `weights` are those of the models' backbones, if not where they were at fit.

    Raises `InputError` for a value out of its range, and for a host that others reach without a token.
    """

    models: tuple[Path, ...]
    runtime: Runtime = field(default_factory=Runtime)
    weights: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    loaded: int = 4
    batch_wait: float = 0.0
    max_request_mb: int = 64
    max_in_flight: int = 64
    timeout: float = 30.0
    drain: float = 1.0
    token: str | None = field(default=None, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise InputError(f"`port` is {self.port}; it must be 0 to 65535, where 0 takes a free one")
        for name in ("loaded", "max_request_mb", "max_in_flight"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` is {getattr(self, name)}; it must be 1 or more")
        for name, unit, least in _RANGES:
            value = getattr(self, name)
            if not (isfinite(value) and least <= value <= 3600):
                raise InputError(f"`{name}` is {value}; it must be a number of {unit} from {least:g} to 3600")
        if not (self.is_loopback or self.token or self.insecure):
            raise InputError(
                f"`host` {self.host} lets other computers in; give `token_file` or the variable {TOKEN_VARIABLE}, so "
                "that only who knows the token is answered, or `insecure` where something else keeps others out"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this computer alone. Raises `InputError` for what is no address."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError as error:
            raise InputError(
                f"`host` is {self.host!r}; it must be localhost or an address of this computer, such as 127.0.0.1 or "
                "0.0.0.0 for all"
            ) from error

    @property
    def max_request_bytes(self) -> int:
        """The most bytes of a request's body."""
        return self.max_request_mb * 1_000_000


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token in a file, or in the environment where no file is given; None where neither is.

    Raises `InputError` for a file that cannot be read, and for a token that is no single line of 16 to 1000 printable
    ASCII characters.
    """
    if path is None:
        token, source = environment.get(TOKEN_VARIABLE), f"the variable {TOKEN_VARIABLE}"
        if token is None:
            return None
    else:
        source = f"the token file {path}"
        try:
            with path.open("rb") as file:
                token = file.read(2 * _LONGEST_TOKEN).decode("ascii", errors="replace")
        except (OSError, ValueError) as error:
            raise InputError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    token = token.strip()
    is_plain = token.isascii() and token.isprintable() and " " not in token
    if not (is_plain and _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN):
        raise InputError(
            f"{source} holds {len(token)} characters; a token is one word of {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} "
            "plain characters, such as `openssl rand -hex 32` prints"
        )
    return token
