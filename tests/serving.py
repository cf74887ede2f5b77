"""A server in a thread, and requests to it over real sockets, for tests."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from softpatch.config import Runtime
from softpatch.deploy.serve.server import address, listen, make_server
from softpatch.deploy.serve.service import Service, running_service
from softpatch.deploy.serve.settings import ServeSettings

RUNTIME = Runtime(device="cpu", batch_size=8)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass(frozen=True)
class Served:
    """A server at work."""

    address: str
    service: Service

    @property
    def place(self) -> str:
        """Host and port."""
        return self.address.removeprefix("http://")

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; underscores in names of headers stand for hyphens."""
        connection = HTTPConnection(self.place, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = b"", **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)


@contextmanager
def serving(*paths: Path, **settings: Any) -> Iterator[Served]:
    """Serve models while the block runs."""
    given = ServeSettings(paths, **{"runtime": RUNTIME, "port": 0, "drain": 0.0, **settings})
    with listen(given.host, given.port) as listening, running_service(given) as service:
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(address(listening), service)
        finally:
            server.end()
            thread.join()


def soon(what: Callable[[], Any]) -> Any:
    """What is true within a few seconds: a request is noted after its answer is sent."""
    end = time.monotonic() + 10
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart form of files (name, content), and its content type."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
