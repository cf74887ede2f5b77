"""Verdicts are published to an MQTT broker, as JSON, each acknowledged by the broker (QoS 1)."""

import re
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from softpatch.errors import InputError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_TARGET = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+)(:(?P<port>\d{1,5}))?/(?P<topic>.+)", re.DOTALL)
_PORT = 1883
_TIMEOUT = 10.0  # seconds without an answer


class Broker(NamedTuple):
    """Where to publish."""

    host: str
    port: int
    topic: str


def broker_of(text: str) -> Broker:
    """Read `HOST[:PORT]/TOPIC`. Raises `InputError` for anything else, and a topic that only subscribers may have."""
    found = _TARGET.fullmatch(text)
    topic = found["topic"] if found else ""
    usable = bool(topic) and topic.isprintable() and not set("+#") & set(topic) and len(topic.encode()) < 2**16
    port = int(found["port"] or _PORT) if found else 0
    if found is None or not usable or not 0 < port < 2**16:
        raise InputError(f"`mqtt` is {text!r}; it must be HOST:PORT/TOPIC, such as broker.example:1883/line1/verdicts")
    return Broker(found["host"].strip("[]"), port, topic)


def publish_to(text: str) -> "Publisher":
    """What publishes to `HOST[:PORT]/TOPIC`. Raises `InputError` for anything else, or without paho-mqtt."""
    return Publisher(broker_of(text))


class Publisher:
    """What sends a message to a broker, as `delivery.Send`, over one connection while that lasts.

    Raises `InputError` where paho-mqtt is not installed.
    """

    def __init__(self, broker: Broker) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise InputError("`mqtt` takes paho-mqtt to publish; install softpatch[mqtt]") from error
        self._broker = broker
        self._client: Client | None = None

    def __call__(self, content: bytes) -> None:
        """Publish a message and wait until the broker has it. Raises `ConnectionError` where that is not certain."""
        try:
            if self._client is None or not self._client.is_connected():
                self.close()
                self._client = _client()
                _connect(self._client, self._broker)
            _publish(self._client, self._broker.topic, content)
        except (OSError, ValueError, RuntimeError) as error:
            self.close()  # with it the message, which another client would send once more
            raise ConnectionError(f"no acknowledgement from {self._broker.host}: {error}") from error

    def close(self) -> None:
        """Leave the broker."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()


def _client() -> "Client":
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    return Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)


def _connect(client: "Client", broker: Broker) -> None:
    """Connect, and wait for the broker's word. Raises `OSError` where it does not take us."""
    answered = threading.Event()
    answer: list[Any] = []

    def note(*arguments: Any) -> None:
        answer.append(arguments[3])
        answered.set()

    client.on_connect = note
    client.connect_timeout = _TIMEOUT
    client.connect(broker.host, broker.port)
    client.loop_start()
    if not answered.wait(_TIMEOUT):
        raise ConnectionError("it does not answer")
    if answer[0].is_failure:
        raise ConnectionError(f"{answer[0]}")


def _publish(client: "Client", topic: str, content: bytes) -> None:
    sent, until = client.publish(topic, content, qos=1), time.monotonic() + _TIMEOUT
    while not sent.is_published() and client.is_connected() and time.monotonic() < until:
        sent.wait_for_publish(0.2)
    if not sent.is_published():
        raise ConnectionError("the connection was lost" if time.monotonic() < until else "time is up")
