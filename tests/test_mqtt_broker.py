"""`softpatch watch --mqtt` with a whole broker, amqtt, and a client of it that subscribes."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image

from conftest import plate
from softpatch import SoftPatch
from test_cli import run

pytest.importorskip("amqtt", reason="amqtt is not installed; `make install` does it")
Start = Callable[[], None]


@pytest.fixture
def port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def start_broker(tmp_path: Path, port: int) -> Iterator[Start]:
    """What starts a broker and waits until it answers."""
    config = tmp_path / "broker.yaml"
    plugins = "{amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}}"
    config.write_text(f"listeners: {{default: {{type: tcp, bind: '127.0.0.1:{port}'}}}}\nplugins: {plugins}\n")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for _ in range(600):
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                return
            time.sleep(0.05)
        pytest.fail("the broker did not start")

    yield start
    for broker in running:
        broker.terminate()
        broker.wait(20)


class Subscriber:
    """A client that keeps what is published on a topic, with its quality of service."""

    def __init__(self, port: int, topic: str) -> None:
        import paho.mqtt.client as mqtt

        self.got: list[tuple[int, dict[str, object]]] = []
        self._changed = threading.Condition()
        subscribed = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._keep
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(topic, qos=1)
        assert subscribed.wait(20)

    def _keep(self, _client: object, _data: object, message: object) -> None:
        with self._changed:
            self.got.append((message.qos, json.loads(message.payload)))  # type: ignore[attr-defined]
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[tuple[int, dict[str, object]]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, 20), self.got
        return self.got

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_verdicts_reach_a_subscriber_also_those_of_while_the_broker_was_away(
    fitted: SoftPatch,
    tmp_path: Path,
    port: int,
    start_broker: Start,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted.save(tmp_path / "model.safetensors")
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    words = ["watch", tmp_path / "model.safetensors", incoming, "-o", tmp_path / "watched", "--once", "--settle", "0"]
    words += ["--mqtt", f"127.0.0.1:{port}/line1/verdicts", "--device", "cpu"]

    Image.fromarray(plate(50)).save(incoming / "early.png")
    with monkeypatch.context() as impatient:
        impatient.setattr("softpatch.cli.deploy._PATIENCE_ONCE", 0.5)
        code, _, told = run(capsys, *words)  # nobody listens yet
    assert code == 0, told

    start_broker()
    subscriber = Subscriber(port, "line1/#")
    Image.fromarray(plate(51, defective=True)).save(incoming / "late.png")
    code, _, told = run(capsys, *words)
    assert code == 0, told
    got = subscriber.wait_for(2)
    subscriber.close()
    rows = [json.loads(line) for line in (tmp_path / "watched/predictions.jsonl").read_text().splitlines()]
    assert [{name: said[name] for name in rows[0]} for _, said in got] == rows
    assert [quality for quality, _ in got] == [1, 1]
    assert [said["verdict"] for _, said in got] == ["good", "anomalous"]
