"""How much of a request is read, for how long, and how many are at work at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from softpatch.deploy.serve.request_errors import RequestError

_BODIES_IN_MEMORY = 8  # of the largest size; smaller ones share the room
_REFUSED_SECONDS = 2.0  # that the rest of a request is read for, so that its client reads the answer


class Limits:
    """What requests at work share: at most `max_in_flight` of them, and room for eight of `max_bytes`."""

    def __init__(self, *, max_in_flight: int, max_bytes: int, seconds: float) -> None:
        self.max_in_flight, self.max_bytes, self.seconds = max_in_flight, max_bytes, seconds
        self.in_flight = 0
        self.bytes_held = 0

    @asynccontextmanager
    async def admitted(self, request: Request) -> AsyncIterator[Request]:
        """The request with its body bounded, counted while the block runs, which has so many seconds.

        Raises `RequestError` where too many are at work, and from within where its body is too large or too slow,
        or where the time is up.
        """
        if self.in_flight >= self.max_in_flight:
            error = RequestError(429, f"{self.in_flight} requests are at work; try again soon", retry_after=1)
            raise await self._after_rest(request, error, has_begun=False)
        self.in_flight += 1
        body = _Body(self, request.receive)
        try:
            self._check_stated_length(request)
            async with asyncio.timeout(self.seconds):
                yield Request(request.scope, body.receive)
        except TimeoutError as error:
            seconds = f"within {self.seconds:g} seconds"
            if body.is_read:
                raise RequestError(504, f"no answer {seconds}; try again later", retry_after=1) from error
            raise RequestError(408, f"the request did not arrive {seconds}", closes=True) from error
        except ClientDisconnect as error:
            raise RequestError(400, "the request ended before it was whole", closes=True) from error
        except RequestError as error:
            if body.is_read:
                raise
            raise await self._after_rest(request, error, has_begun=body.held > 0) from None
        finally:
            self.in_flight -= 1
            self.bytes_held -= body.held

    def too_large(self) -> RequestError:
        """The error of a body that is too large."""
        return RequestError(
            413,
            f"the request is larger than the {self.max_bytes // 1_000_000} MB allowed; send less at once",
            closes=True,
        )

    def _check_stated_length(self, request: Request) -> None:
        stated = request.headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdecimal() and len(stated) < 20):
            raise RequestError(400, f"the header Content-Length is {stated[:20]!r}; it must be a number", closes=True)
        if int(stated) > self.max_bytes:
            raise self.too_large()

    async def _after_rest(self, request: Request, error: RequestError, *, has_begun: bool) -> RequestError:
        """The error, after a little more of the request: a client that still sends would not read an answer.

        One that waits to be told to send, and of which nothing was received, reads it at once.
        """
        closing = RequestError(error.status, error.message, retry_after=error.retry_after, closes=True)
        if not has_begun and request.headers.get("expect", "").lower() == "100-continue":
            return closing
        stated, rest = request.headers.get("content-length", ""), 0
        most = int(stated) if stated.isdecimal() else self.max_bytes
        try:
            async with asyncio.timeout(_REFUSED_SECONDS):
                while rest <= most:
                    message = await request.receive()
                    rest += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return error
        except TimeoutError:
            pass
        return closing


class _Body:
    """What is received of one request, counted."""

    def __init__(self, limits: Limits, receive: Receive) -> None:
        self._limits, self._receive = limits, receive
        self.held = 0
        self.is_read = False

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self.held += size
        self._limits.bytes_held += size
        self.is_read = not message.get("more_body", False)
        if self.held > self._limits.max_bytes:
            self.is_read = False
            raise self._limits.too_large()
        if self._limits.bytes_held > _BODIES_IN_MEMORY * self._limits.max_bytes:
            raise RequestError(429, "requests at work hold as much as there is room for; try again soon", retry_after=1)
        return message
