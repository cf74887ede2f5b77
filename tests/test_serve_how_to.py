"""What docs/how-to/behind-http.md says can be typed, and does what the page says."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import plate
from serving import Served, serving
from softpatch import cli
from softpatch.estimator import SoftPatch

PAGE = (Path(__file__).parent.parent / "docs/how-to/behind-http.md").read_text()
DEFAULT = "localhost:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


LINES = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
def served(fitted: SoftPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    fitted.save(tmp_path / "product.safetensors")
    (tmp_path / "models").mkdir()
    fitted.save(tmp_path / "models/flange.safetensors")
    Image.fromarray(plate(101, defective=True)).save(tmp_path / "photo.png")
    Image.fromarray(plate(60)).save(tmp_path / "other.png")
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.chdir(tmp_path)
    with serving(Path("product.safetensors")) as served:
        yield served


def test_the_commands_that_serve_are_taken(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr("softpatch.deploy.serve.server.serve", lambda settings, **_: taken.append(settings))
    for line in LINES:
        if line.startswith("softpatch "):
            with pytest.raises(SystemExit) as leaving:
                cli.main(shlex.split(line)[1:])
            assert leaving.value.code == 0, line
    assert [(settings.host, settings.loaded, bool(settings.token)) for settings in taken] == [
        ("127.0.0.1", 4, False),
        ("127.0.0.1", 8, False),
        ("0.0.0.0", 4, True),
    ]
    assert served.service.settings.max_request_mb == taken[0].max_request_mb


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_what_the_page_says(served: Served, fitted: SoftPatch, tmp_path: Path) -> None:
    answers = []
    lines = [line for line in LINES if line.startswith("curl ")]
    for line in lines:
        command = shlex.split(line.replace(DEFAULT, served.place))
        ended = subprocess.run([*command, "--fail", "--silent", "--show-error"], capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr
        answers.append(ended.stdout)
    assert len(answers) == 6
    assert answers[0].count(b'"path"') == 1
    assert answers[1].count(b'"path"') == 2
    assert b'"regions"' in answers[2]
    assert json.loads(answers[5])["drift"]["images"] == 6
    with Image.open("overlay.png") as overlay:
        assert overlay.format == "PNG"
    expected = fitted.predict(tmp_path / "photo.png").map_at_original_size()
    np.testing.assert_array_equal(tifffile.imread("map.tiff"), expected)


def test_the_client_of_triton_gets_what_python_says(
    served: Served, fitted: SoftPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block.replace(DEFAULT, served.place), "behind-http.md", "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    score = np.float32(fitted.predict(tmp_path / "photo.png").image_score)
    assert capsys.readouterr().out == f"[{score!s}] [ True]\n"
