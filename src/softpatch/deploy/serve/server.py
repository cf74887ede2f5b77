"""The server itself: a socket, the event loop, what ends slow connections, and an orderly end."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from softpatch.deploy.serve.app import application
from softpatch.deploy.serve.log import LogHandler, log
from softpatch.deploy.serve.service import Service, running_service
from softpatch.deploy.serve.settings import ServeSettings
from softpatch.errors import InputError

_HEADER_SECONDS = 10.0  # a connection has for the headers of its next request
_IDLE_SECONDS = 60  # it may be kept for another
_WAITING_CONNECTIONS = 1024


def serve(settings: ServeSettings, on_start: Callable[[str], None] = lambda _: None) -> None:
    """Serve until a signal asks to end: what is at work is finished, nothing new is taken.

    `on_start` is told the address, such as http://127.0.0.1:8000. Raises `InputError` where it cannot be had.
    """
    listening = listen(settings.host, settings.port)
    with listening, running_service(settings) as service:
        server = make_server(service)
        on_start(address(listening))
        log("start", address=address(listening), models=list(service.models.catalogue()))
        server.run(sockets=[listening])
        log("end")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises `InputError` where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_WAITING_CONNECTIONS)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen at `host` {host}, `port` {port}: {reason}; choose others, or port 0 for a free one"
        ) from error


def address(listening: socket.socket) -> str:
    """Where a socket listens, as a browser has it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(service: Service) -> "Server":
    """The server of a service, which has not begun yet."""
    for name in ("uvicorn.error", "uvicorn.asgi", "python_multipart"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [LogHandler(logging.WARNING)], False
    config = uvicorn.Config(
        application(service),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=int(service.settings.timeout) + 1,
    )
    return Server(config, service)


class Server(uvicorn.Server):
    """A server that says it is not ready for a while before it takes no more requests."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end; a second signal ends at once what a first one asked to end."""
        if self._ends_at is None:
            self.end()
        else:
            self.force_exit = self.should_exit
            self.should_exit = True

    def end(self) -> None:
        """Be no longer ready, and end after the time that the settings say."""
        self._service.is_ready = False
        self._ends_at = time.monotonic() + self._service.settings.drain

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to end, which is asked ten times a second."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)


class _Protocol(H11Protocol):
    """A connection that is ended where the headers of a request take too long, which uvicorn leaves open."""

    _ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self._stop_expecting()
        elif self._ends is None:
            self._ends = self.loop.call_later(_HEADER_SECONDS, self.transport.abort)

    def _stop_expecting(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None
