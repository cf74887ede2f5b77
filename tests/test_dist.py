"""What is given away: nothing is forgotten in the wheel, it runs on its own, and it is built the same twice."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import plate

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "packaging"))

pytest.importorskip("build", reason="build is not installed; `make install` does it")
import dist  # noqa: E402

EPOCH = 1_700_000_000  # 14 November 2023


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, apart from the working tree, with a page, a test and data that somebody left there."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src/softpatch", folder / "src/softpatch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "packaging", folder / "packaging", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    (folder / "tests").mkdir()
    (folder / "tests/test_left.py").touch()
    (folder / "data").mkdir()
    (folder / "data/customer.png").touch()
    return folder


@pytest.fixture(scope="module")
def built(source: Path) -> tuple[Path, Path]:
    return dist.build(source, source / "dist", EPOCH)


def test_nothing_is_forgotten_and_nothing_is_too_much(built: tuple[Path, Path], source: Path) -> None:
    assert dist.problems(*built, source) == []
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
        assert (
            wheel.read("softpatch/features/builtin-v1.safetensors")
            == (ROOT / "src/softpatch/features/builtin-v1.safetensors").read_bytes()
        )
    for kind in (".html", ".css", ".js", "py.typed", "/licenses/LICENSE"):
        assert any(name.endswith(kind) for name in names), kind
    assert not [name for name in names if "test" in name or "customer" in name]


def test_what_is_forgotten_is_told(built: tuple[Path, Path], source: Path) -> None:
    new, old = source / "src/softpatch/review/new_page.svg", source / "src/softpatch/py.typed"
    new.touch()
    old.rename(source / "py.typed")
    try:
        assert dist.problems(*built, source) == [
            "softpatch/review/new_page.svg is not in the wheel; name it in package-data of pyproject.toml",
            "softpatch/py.typed is in the wheel, and not in src",
            "src/softpatch/review/new_page.svg is not in the source archive; name it in MANIFEST.in",
            "src/softpatch/py.typed is in the source archive and builds nothing; exclude it in MANIFEST.in",
        ]
    finally:
        new.unlink()
        (source / "py.typed").rename(old)


def test_it_is_built_the_same_at_another_time_in_another_place(built: tuple[Path, Path], source: Path) -> None:
    again = source.with_name("again")
    shutil.copytree(source, again, ignore=shutil.ignore_patterns("dist", "*.egg-info"))
    (again / "README.md").touch()
    (again / "LICENSE").chmod(0o600)
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        for paths in (built, dist.build(again, again / "dist", EPOCH))
    ]
    assert digests[0] == digests[1]
    with zipfile.ZipFile(built[0]) as wheel:
        assert {entry.date_time for entry in wheel.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_the_wheel_runs(built: tuple[Path, Path], tmp_path: Path) -> None:
    """It is installed in an environment of its own, which borrows what it requires from this one."""
    environment, photos = tmp_path / "environment", tmp_path / "photos"
    venv.create(environment, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", vars={"base": str(environment), "platbase": str(environment)})
    python, site = Path(paths["scripts"], Path(sys.executable).name), Path(paths["purelib"])
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--quiet", built[0]], check=True)
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)  # what the wheel says that it requires
    photos.mkdir()
    for seed in range(8):
        Image.fromarray(plate(seed)).save(photos / f"{seed}.png")
    Image.fromarray(np.asarray(plate(8, defective=True))).save(tmp_path / "bad.png")

    def run(*words: object) -> str:
        command = [python, "-I", *map(str, words)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert run("-c", "import softpatch; print(softpatch.__file__)").startswith(str(site))
    assert run(python.with_name("softpatch"), "--version") == f"softpatch {version()}\n"
    run(python.with_name("softpatch"), "fit", "photos", "-o", "model", "--resize", "64", "--symmetries", "none")
    run(python.with_name("softpatch"), "predict", "model", "bad.png", "-o", "results", "--report")
    assert "anomalous" in (tmp_path / "results/predictions.csv").read_text()
    assert "</html>" in (tmp_path / "results/report.html").read_text()


def version() -> str:
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def test_the_version_is_the_same_everywhere() -> None:
    import softpatch

    assert softpatch.__version__ == version()
    assert f'org.opencontainers.image.version="{version()}"' in (ROOT / "packaging/Containerfile").read_text()


def test_what_no_commit_holds_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "_git", lambda *words: " M README.md" if words[0] == "status" else "1")
    with pytest.raises(SystemExit, match=r"commit them first:\n M README\.md"):
        dist.main()
