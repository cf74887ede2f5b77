"""Publishing to a broker that speaks as much of MQTT 3.1.1 as that takes."""

import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from softpatch.deploy.watch.mqtt import Broker, broker_of, publish_to
from softpatch.errors import InputError

CONNECT, CONNACK, PUBLISH, PUBACK, PINGREQ, PINGRESP = 1, 2, 3, 4, 12, 13


class TestBroker(socketserver.ThreadingTCPServer):
    """Acknowledges what is published and keeps it; it refuses, or hangs up on, as many as it is told to."""

    __test__ = False
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Session)
        self.published: list[tuple[str, int, bytes]] = []
        self.connections = self.refuse = self.hang_up = 0


class Session(socketserver.StreamRequestHandler):
    """One client."""

    server: TestBroker

    def handle(self) -> None:
        while first := self.rfile.read(1):
            kind, flags = first[0] >> 4, first[0] & 15
            packet = self.rfile.read(self.length())
            if kind == CONNECT:
                self.server.connections += 1
                refused = self.server.refuse > 0
                self.server.refuse -= refused
                self.wfile.write(bytes([CONNACK << 4, 2, 0, 5 if refused else 0]))  # 5: not authorised
                if refused:
                    return
            elif kind == PINGREQ:
                self.wfile.write(bytes([PINGRESP << 4, 0]))
            elif kind == PUBLISH:
                size = struct.unpack(">H", packet[:2])[0]
                topic, number, content = packet[2 : 2 + size], packet[2 + size : 4 + size], packet[4 + size :]
                self.server.published.append((topic.decode(), flags >> 1 & 3, content))
                if self.server.hang_up > 0:
                    self.server.hang_up -= 1
                    return
                self.wfile.write(bytes([PUBACK << 4, 2]) + number)

    def length(self) -> int:
        value, shift = 0, 0
        while True:
            (byte,) = self.rfile.read(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


@pytest.fixture
def broker() -> Iterator[TestBroker]:
    with TestBroker() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def target(broker: TestBroker) -> str:
    return f"127.0.0.1:{broker.server_address[1]}/line1/verdicts"


def test_messages_are_published_and_acknowledged_over_one_connection(broker: TestBroker) -> None:
    send = publish_to(target(broker))
    send(b'{"verdict": "good"}')
    send(b"x" * 1000)
    send.close()
    assert broker.published == [("line1/verdicts", 1, b'{"verdict": "good"}'), ("line1/verdicts", 1, b"x" * 1000)]
    assert broker.connections == 1


def test_a_broker_that_refuses_is_no_delivery(broker: TestBroker) -> None:
    broker.refuse = 1
    send = publish_to(target(broker))
    with pytest.raises(ConnectionError, match=r"(?i)no acknowledgement from 127.0.0.1: not authori"):
        send(b"{}")
    send(b"{}")
    send.close()
    assert len(broker.published) == 1


def test_a_broker_that_hangs_up_before_it_acknowledges_gets_the_message_again(broker: TestBroker) -> None:
    broker.hang_up = 1
    send = publish_to(target(broker))
    with pytest.raises(ConnectionError, match="no acknowledgement from 127"):
        send(b"first")
    send(b"first")
    send.close()
    assert [content for *_, content in broker.published] == [b"first", b"first"]
    assert broker.connections == 2


def test_a_broker_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"no acknowledgement from 127\.0\.0\.1"):
        publish_to(f"127.0.0.1:{port}/topic")(b"{}")


def test_targets() -> None:
    assert broker_of("broker.example/a") == Broker("broker.example", 1883, "a")
    assert broker_of("10.0.0.1:8883/line 1/verdicts/") == Broker("10.0.0.1", 8883, "line 1/verdicts/")
    assert broker_of("[::1]:99/ä") == Broker("::1", 99, "ä")


@pytest.mark.parametrize(
    "text",
    ["", "broker", "broker/", "/topic", "broker:0/a", "broker:99999/a", "broker:x/a", "broker/a/+/b", "broker/#",
     "broker/a\0b", "broker/a\nb", "mqtt://broker/a", "user@broker/a", "broker/" + "a" * 70_000],
)  # fmt: skip
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="it must be HOST:PORT/TOPIC"):
        broker_of(text)


def test_without_paho_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(InputError, match=r"softpatch\[mqtt\]"):
        publish_to("broker/topic")
