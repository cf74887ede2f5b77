"""`softpatch serve` as a process: where it listens, what it refuses, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from serving import Served, serving, soon
from softpatch import cli
from softpatch.deploy.serve.server import listen
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch
from test_serve_people import BAD


@pytest.fixture(scope="module")
def model(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "flange.safetensors"
    fitted.save(path)
    return path


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own, and host and port."""
    command = [sys.executable, "-m", "softpatch", "serve", *map(str, arguments), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.endswith(" serves flange\n"), line
            yield running, line.split()[0].removeprefix("http://").rstrip("/")
        finally:
            running.kill()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_ends_it_after_what_is_at_work(model: Path) -> None:
    with (
        process(model, "--drain", "0.5") as (running, place),
        closing(HTTPConnection(place, timeout=60)) as asking,
        closing(HTTPConnection(place, timeout=60)) as looking,
    ):
        looking.request("GET", "/v2/health/ready")
        assert looking.getresponse().read() == b'{"ready":true}'
        asking.putrequest("POST", "/v1/predict")
        asking.putheader("Content-Length", str(len(BAD)))
        asking.endheaders(BAD[:-1])
        looking.request("GET", "/metrics")
        looking.getresponse().read()
        running.send_signal(signal.SIGTERM)

        def is_not_ready() -> bool:
            looking.request("GET", "/v2/health/ready")
            response = looking.getresponse()
            return (response.status, response.read()) == (503, b'{"ready":false}')

        assert soon(is_not_ready)
        asking.send(BAD[-1:])
        response = asking.getresponse()
        assert (response.status, json.load(response)["images"][0]["verdict"]) == (200, "anomalous")
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (0, "")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert (events[0], events[-1]) == ("start", "end")


def test_one_address_is_not_given_twice() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at `host` 127.0.0.1, `port` {port}: .*choose others"):
            listen("127.0.0.1", port)


def test_it_listens_on_ipv6(model: Path) -> None:
    try:
        listen("::1", 0).close()
    except InputError:
        pytest.skip("there is no IPv6 here")
    with serving(model, host="::1") as served:
        assert served.address.startswith("http://[::1]:")
        assert served.get("/v2/health/live").status == 200


def test_what_waits_is_answered_at_the_end(model: Path) -> None:
    served: Served
    with serving(model, drain=0.2) as served:
        served.service.is_ready = False
        assert served.get("/v2/health/ready").status == 503
        assert served.get("/v2/models/flange/ready").status == 503
        assert served.get("/v2/health/live").status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.safetensors"], "nowhere.safetensors does not exist; give model files that `softpatch fit` wrote"),
        (["{model}", "--host", "0.0.0.0"], "0.0.0.0 lets other computers in; give --token-file or the variable"),
        (["{model}", "--host", "nowhere"], "--host is 'nowhere'; it must be localhost or an address"),
        (["{model}", "--port", "70000"], "--port is 70000; it must be 0 to 65535"),
        (["{model}", "--token-file", "nowhere"], "the token file nowhere cannot be read: No such file or directory"),
        (["{model}", "--timeout", "nan"], "--timeout is nan"),
        (["{model}", "--weights", "nowhere.pth"], "weights file nowhere.pth does not exist"),
        (["{model}", "{model}/x"], "does not exist"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(model: Path, arguments: list[str], words: str, capsys, monkeypatch) -> None:
    monkeypatch.delenv("SOFTPATCH_TOKEN", raising=False)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["serve", *(argument.format(model=model) for argument in arguments)])
    out, err = capsys.readouterr()
    assert (leaving.value.code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_without_the_extra_it_says_what_to_install(model: Path, capsys, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("softpatch.deploy.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("softpatch.deploy.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        cli.main(["serve", str(model)])
    assert "to serve takes uvicorn, which is not installed; install softpatch[serve]" in capsys.readouterr().err
