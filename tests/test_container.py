"""packaging/Containerfile, as far as it can be tried without building it: what it copies, runs and writes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

import softpatch
from conftest import plate
from serving import serving
from softpatch import cli
from softpatch.deploy.serve.settings import ServeSettings
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch

ROOT = Path(__file__).parent.parent
LINES = re.sub(r"\\\n\s*", "", (ROOT / "packaging/Containerfile").read_text()).splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if line and not line.startswith("#")]
LAST_STAGE = STEPS[max(index for index, (word, _) in enumerate(STEPS) if word == "FROM") :]
READ_ONLY = """
mount --bind "$1" /mnt && shift
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs /tmp
mount -o remount,bind,ro /mnt
mount -o remount,bind,ro /
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


def only(word: str) -> str:
    """What is said by an instruction that the image has once."""
    (said,) = [rest for each, rest in LAST_STAGE if each == word]
    return said


def parameters(words: list[str]) -> dict[str, Any]:
    """A command as the command line reads it."""
    command = typer.main.get_command(cli.app).commands[words[0]]  # type: ignore[attr-defined]
    return dict(command.make_context(words[0], words[1:]).params)


@pytest.fixture(scope="module")
def models(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    fitted.save(folder / "flange.safetensors")
    return folder


def test_what_it_copies_is_there_and_let_through() -> None:
    ignored, *rules = (line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#")
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {name for word, rest in STEPS if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    assert ignored == "*"
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_torch_is_the_one_that_is_pinned(tmp_path: Path) -> None:
    (chosen,) = [re.findall(r"grep (-E '[^']+') constraints.txt", rest) for word, rest in STEPS if "grep" in rest]
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    found = subprocess.run(["grep", *shlex.split(chosen[0]), "constraints.txt"], cwd=tmp_path, capture_output=True)
    assert re.fullmatch(rb"torch==[\d.]+\ntorchvision==[\d.]+\n", found.stdout)


def test_it_serves_other_computers_with_a_token_alone(models: Path) -> None:
    assert json.loads(only("ENTRYPOINT")) == ["softpatch"]
    given = parameters(json.loads(only("CMD")))
    assert given["models"] == [Path("/models")]
    assert f"{given['port']}" == only("EXPOSE")
    with pytest.raises(InputError, match="lets other computers in; give `token_file` or the variable SOFTPATCH_TOKEN"):
        ServeSettings((models,), host=given["host"])


def test_it_runs_without_rights() -> None:
    assert re.fullmatch(r"([1-9]\d{4}):\1", only("USER"))
    assert only("STOPSIGNAL") == "SIGTERM"
    assert LAST_STAGE[-1][0] == "CMD"
    assert [rest for word, rest in LAST_STAGE if word == "COPY"] == ["--from=build /opt/softpatch /opt/softpatch"]
    assert not [rest for word, rest in LAST_STAGE if word == "ADD" or "curl" in rest]


def test_its_health_is_that_of_the_server(models: Path) -> None:
    program, *words = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    assert program == "python"

    def status(port: str) -> int:
        asked = [word.replace("8000", port) for word in words]
        assert asked != words
        ended = subprocess.run([sys.executable, *asked], capture_output=True, timeout=60, check=False)
        return ended.returncode

    with serving(models) as served:
        port = served.place.rpartition(":")[2]
        assert status(port) == 0
        served.service.is_ready = False
        assert status(port) == 1
    assert status(port) == 1


TOLD = dict(word.split("=", 1) for word in shlex.split(only("ENV")))


@pytest.fixture
def shut_in(models: Path) -> list[str]:
    """What runs a command in the image's environment, without rights, where only /tmp is written; /mnt has models."""
    command = ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", str(models)]
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("only root of a Linux can mount a file system that is read-only")
    ended = subprocess.run([*command, sys.executable, "-c", "import sys"], capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"file systems cannot be mounted here: {ended.stderr.strip()}")
    told = {**TOLD, "PYTHONPATH": str(Path(softpatch.__file__).parent.parent)}
    return [*command, "env", "-i", *(f"{name}={value}" for name, value in told.items())]


def test_compiled_code_is_kept_where_it_may_be_written(shut_in: list[str]) -> None:
    code = "from softpatch.memory.kernels.compiling import _folder; print(_folder())"
    ended = subprocess.run([*shut_in, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout == f"{TOLD['XDG_CACHE_HOME']}/softpatch/compiled\n", ended.stderr


def test_it_runs_on_a_file_system_that_is_read_only(shut_in: list[str]) -> None:
    words = ["/mnt" if word == "/models" else word for word in json.loads(only("CMD"))]
    command = [*shut_in, f"SOFTPATCH_TOKEN={'0' * 32}", sys.executable, "-m", *json.loads(only("ENTRYPOINT")), *words]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.endswith(" serves flange\n"), process.communicate()[1]
            port = int(line.split()[0].rstrip("/").rpartition(":")[2])
            photo = BytesIO()
            Image.fromarray(plate(101, defective=True)).save(photo, "PNG")
            for kind in ("application/json", "image/png", "image/tiff"):
                with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                    headers = {"Authorization": f"Bearer {'0' * 32}", "Accept": kind}
                    connection.request("POST", "/v1/predict", photo.getvalue(), headers)
                    assert connection.getresponse().status == 200
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert {json.loads(line)["event"] for line in errors.splitlines()} == {"start", "model", "request", "end"}
