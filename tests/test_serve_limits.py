"""Requests that are too large, too slow or too many end; what is at work goes on."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import Served, form, serving, soon
from softpatch.deploy.serve import limits, server, service
from softpatch.deploy.serve.batching import AbandonedError
from softpatch.estimator import SoftPatch
from test_serve_people import BAD, GOOD


@pytest.fixture(scope="module")
def model(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "flange.safetensors"
    fitted.save(path)
    return path


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(model, max_request_mb=1, max_in_flight=2, timeout=0.7) as served:
        yield served


@contextmanager
def connected(served: Served, start: bytes) -> Iterator[socket.socket]:
    host, _, port = served.place.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(start)
        yield connection


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
UNFINISHED = HEAD + b"Content-Length: 1000\r\n\r\nx"


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_a_body_whose_length_is_too_large_is_not_waited_for(served: Served) -> None:
    body = b"\0" * 1_000_001
    answer = served.post("/v1/predict", body)
    assert (answer.status, answer.error) == (413, "the request is larger than the 1 MB allowed; send less at once")
    assert served.post("/v2/models/flange/infer", body).status == 413
    multipart, kind = form(("a.png", body))
    assert served.post("/v1/predict", multipart, Content_Type=kind).status == 413


@pytest.mark.parametrize("expects", [True, False])
def test_a_client_reads_why_its_large_body_is_refused(served: Served, expects: bool) -> None:
    size = 3_000_000
    head = HEAD + b"Content-Length: %d\r\n" % size + (b"Expect: 100-continue\r\n" if expects else b"")
    with connected(served, head + b"\r\n") as connection:
        if not expects:
            connection.sendall(b"x" * size)
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than the 1 MB allowed" in answer


def test_a_body_of_unstated_length_is_cut_off(served: Served) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with connected(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        sent = 0
        try:
            while sent < 1000:
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert sent < 1000


def test_a_slow_body_is_cut_off(served: Served) -> None:
    with connected(served, UNFINISHED) as connection:
        received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"the request did not arrive within 0.7 seconds" in received


def test_slow_headers_are_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.2)
    for start in (b"", b"GET /v2 HT"):
        with connected(served, start) as connection:
            assert all_of(connection) == b""
    with connected(served, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /v2 HT")
        assert b"HTTP" not in all_of(connection)


def test_a_length_that_is_none(served: Served) -> None:
    with connected(served, HEAD + b"Content-Length: -5\r\n\r\n") as connection:
        assert all_of(connection).startswith(b"HTTP/1.1 400")


def test_more_requests_than_are_allowed_are_turned_away(served: Served) -> None:
    with connected(served, UNFINISHED), connected(served, UNFINISHED):
        assert soon(lambda: served.service.limits.in_flight == 2)
        answer = served.post("/v1/predict", GOOD)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.error == "2 requests are at work; try again soon"
        assert served.get("/v2/health/ready").status == 200
    assert soon(lambda: served.service.limits.in_flight == 0)
    assert served.service.limits.bytes_held == 0
    assert served.post("/v1/predict", GOOD).status == 200


def test_requests_share_the_room_for_their_bodies(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_BODIES_IN_MEMORY", 0.001)
    answer = served.post("/v1/predict", b"x" * 5000)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert served.service.limits.bytes_held == 0


@pytest.fixture
def hold(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Judging waits until it is let go."""
    go, detector = threading.Event(), served.service.models.detector

    def held(file: object) -> object:
        assert go.wait(10)
        return detector(file)  # type: ignore[arg-type]

    monkeypatch.setattr(served.service.models, "detector", held)
    yield go.set
    go.set()
    assert soon(lambda: served.service.batcher.waiting() == 0)


def test_an_answer_that_takes_too_long_is_not_waited_for(served: Served, hold: Callable[[], None]) -> None:
    began = time.monotonic()
    answer = served.post("/v1/predict", GOOD)
    assert (answer.status, answer.headers["retry-after"]) == (504, "1")
    assert answer.error == "no answer within 0.7 seconds; try again later"
    assert time.monotonic() - began < 8
    assert served.post("/v1/predict", GOOD).status == 504  # it waited behind the first, and is dropped
    hold()
    assert soon(lambda: served.post("/v1/predict", BAD).status == 200)


def test_memory_that_is_used_up_and_what_nobody_expected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> Callable[[object], object]:
        def failing(_: object) -> object:
            raise error

        return failing

    monkeypatch.setattr(served.service.models, "detector", fail(MemoryError()))
    answer = served.post("/v1/predict", GOOD)
    assert (answer.status, answer.error) == (503, "the server is short of memory; try again later")
    monkeypatch.setattr(served.service.models, "detector", fail(ValueError("/secret/path")))
    answer = served.post("/v1/predict", GOOD)
    assert (answer.status, answer.error) == (500, "the server failed; its log says why")
    monkeypatch.undo()
    assert served.post("/v1/predict", GOOD).status == 200


def test_a_client_that_leaves_is_no_failure(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    with connected(served, UNFINISHED):
        assert soon(lambda: served.service.limits.in_flight == 1)
    assert soon(lambda: served.service.limits.in_flight == 0)
    assert '"event": "error"' not in capsys.readouterr().err


def test_what_nobody_waits_for_is_not_judged_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Callable[[], bool]] = []

    def slow(_detector: object, _refs: object, is_wanted: Callable[[], bool]) -> object:
        seen.append(is_wanted)
        assert soon(lambda: not is_wanted())
        raise AbandonedError

    monkeypatch.setattr(service, "judge", slow)
    assert served.post("/v1/predict", GOOD).status == 504
    monkeypatch.undo()
    assert len(seen) == 1
    assert served.post("/v1/predict", GOOD).status == 200
