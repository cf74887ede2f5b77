"""Posting to a real server, which fails at first, redirects, or is not there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from softpatch.deploy.watch.delivery import Delivery
from softpatch.deploy.watch.journal import open_journal
from softpatch.deploy.watch.webhook import post_to
from softpatch.errors import InputError
from test_journal import FOLDER, entry


class Server(HTTPServer):
    """Answers with `answers` in turn, then with 200, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/verdicts"


class Handler(BaseHTTPRequestHandler):
    """Keeps any request."""

    server: Server

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers), content))
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_message_is_posted_as_json(server: Server) -> None:
    post_to(server.url)(b'{"verdict": "good"}')
    ((method, path, headers, content),) = server.requests
    assert (method, path, content) == ("POST", "/verdicts", b'{"verdict": "good"}')
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


def test_the_token_is_read_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    send = post_to(server.url, tmp_path / "token")
    send(b"{}")
    (tmp_path / "token").write_text("second")
    send(b"{}")
    assert [each[2]["Authorization"] for each in server.requests] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 500, 503])
def test_any_other_answer_is_no_delivery(status: int, server: Server) -> None:
    server.answers = [(status, {"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(ConnectionError, match=f"the receiver answers {status}"):
        post_to(server.url)(b"{}")
    assert len(server.requests) == 1  # nothing was followed


def test_a_receiver_that_is_not_there() -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(ConnectionError, match="cannot be reached"):
        post_to(url)(b"{}")


def test_a_server_that_fails_at_first_gets_every_verdict(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.delivery._FIRST_WAIT", 0.01)
    server.answers = [(503, {}), (500, {})]
    entries = [entry("a.png"), entry("b.png", verdict="anomalous")]
    notes: list[str] = []
    with open_journal(tmp_path, FOLDER) as (journal, _):
        delivery = Delivery("webhook", post_to(server.url), tmp_path, journal, note=notes.append)
        delivery.begin()
        journal.append(entries)
        delivery.announce(entries, journal.length)
        delivery.close(20)
    bodies = [content for *_, content in server.requests]
    assert len(bodies) == 4
    assert bodies[0] == bodies[1] == bodies[2]  # with the same id
    assert b'"verdict": "good"' in bodies[2]
    assert b'"verdict": "anomalous"' in bodies[3]
    assert "503" in notes[0]


@pytest.mark.parametrize(
    "url",
    ["", "plant", "ftp://plant/x", "file:///etc/passwd", "http://", "http:///x", "http://a b/", "http://a:99999/",
     "http://[::1/x", "https://plänt/", "http://a/\r\nHost: b"],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="it must be an address such as https://"):
        post_to(url)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(InputError, match="webhook_token_file") as caught:
        post_to("https://user:secret@plant.example/")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff", b"a\0b", b"x" * 10_001])
def test_tokens_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="webhook_token_file"):
        post_to("https://plant.example/", tmp_path / "token")


def test_a_token_that_is_not_there_at_first_or_later(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        post_to(server.url, tmp_path / "token")
    (tmp_path / "token").write_text("token")
    send = post_to(server.url, tmp_path / "token")
    (tmp_path / "token").unlink()
    with pytest.raises(ConnectionError, match="No such file"):
        send(b"{}")
    assert server.requests == []
