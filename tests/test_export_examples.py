"""The programs in the page on exporting, compiled and run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import openvino
import pytest
from PIL import Image

from conftest import plate
from softpatch import SoftPatch
from softpatch.deploy.export.graph_file import FILES
from test_cli import run

PAGE = (Path(__file__).parent.parent / "docs/how-to/export-a-model.md").read_text(encoding="utf-8")
WITH_SOFTPATCH, WITHOUT = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
CPP = dict(zip(("openvino", "onnx"), re.findall(r"```cpp\n(.*?)```", PAGE, flags=re.DOTALL), strict=True))
COMPILE = re.findall(r"```sh\n((?:OPENVINO|ONNXRUNTIME)=.*?)\./detect", PAGE, flags=re.DOTALL)
HEADERS = os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a good image and a defective one, each as PNG and as PPM."""
    folder = tmp_path_factory.mktemp("product")
    (folder / "photos").mkdir()
    for seed in range(12):
        Image.fromarray(plate(seed)).save(folder / f"photos/{seed}.png")
    SoftPatch(resize=64, device="cpu", symmetries="none").fit(folder / "photos").save(folder / "product.safetensors")
    for name, seed in (("good", 50), ("bad", 51)):
        for suffix in ("png", "ppm"):
            Image.fromarray(plate(seed, defective=name == "bad")).save(folder / f"{name}.{suffix}")
    return folder


def expected(folder: Path) -> list[float]:
    return [
        each.image_score
        for each in SoftPatch.load(folder / "product.safetensors").predict([folder / "good.png", folder / "bad.png"])
    ]


def scores_of(lines: str) -> list[float]:
    return [float(score) for score in re.findall(r"score ([\d.]+)", lines)]


def test_exported_from_python(
    product: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(product)
    exec(WITH_SOFTPATCH, {})
    deviation, changed = capsys.readouterr().out.split()
    assert 0 < float(deviation) < 0.2
    assert changed == "0"
    assert json.loads(Path("exported/model.json").read_text())["precision"] == "int8"


def test_in_python_without_softpatch(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "softpatch" not in WITHOUT
    assert len(WITHOUT.splitlines()) <= 20
    run(capsys, "export", product / "product.safetensors", "-o", product / "exported", "--device", "cpu")
    (product / "detect.py").write_text(WITHOUT)
    done = subprocess.run(
        [sys.executable, "detect.py", "good.png", "bad.png"], cwd=product, capture_output=True, text=True, check=True
    )
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["good.png: good", "bad.png: anomalous"]
    assert scores_of(done.stdout) == pytest.approx(expected(product), rel=1e-3)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(("file_format", "compile_commands"), [*zip(CPP, COMPILE, strict=True)], ids=CPP)
def test_in_cpp(product: Path, capsys: pytest.CaptureFixture[str], file_format: str, compile_commands: str) -> None:
    assert len(CPP[file_format].splitlines()) <= 60
    if file_format == "openvino" and not (Path(openvino.__file__).parent / "include").is_dir():
        pytest.skip("this OpenVINO has no headers")
    if file_format == "onnx":
        unpack_onnxruntime(product / compile_commands.partition("\n")[0].removeprefix("ONNXRUNTIME="))
    folder = "exported" if file_format == "onnx" else "exported-openvino"
    options = ["--format", file_format, "-o", product / folder, "--device", "cpu"]
    run(capsys, "export", product / "product.safetensors", *options)
    (product / "detect.cpp").write_text(CPP[file_format])
    subprocess.run(["bash", "-ec", compile_commands.replace("python", sys.executable, 1)], cwd=product, check=True)
    program = [product / "detect", f"{folder}/{FILES[file_format][0]}"]
    done = subprocess.run([*program, "good.ppm", "bad.ppm"], cwd=product, capture_output=True, text=True, check=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["good.ppm: good", "bad.ppm: anomalous"]
    assert scores_of(done.stdout) == pytest.approx(expected(product), rel=1e-3)


def unpack_onnxruntime(release: Path) -> None:
    """Make what an archive of ONNX Runtime unpacks to, of headers of the system and the library of the wheel."""
    if not Path(HEADERS, "onnxruntime_cxx_api.h").is_file():
        pytest.skip(f"there are no headers of ONNX Runtime in {HEADERS}, or where ONNXRUNTIME_INCLUDE says")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    (release / "lib").mkdir(parents=True)
    (release / "include").symlink_to(HEADERS)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (release / "lib" / name).symlink_to(library)
