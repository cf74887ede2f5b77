"""The README's commands and its Python run as they stand, on a smaller demo."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from softpatch import cli
from softpatch.data.demo import write_demo_dataset

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_commands_and_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    small = partial(write_demo_dataset, train_good=9, train_anomalous=2, test_good=4, test_anomalous=4, size=128)
    monkeypatch.setattr("softpatch.review.demo.write_demo_dataset", small)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("softpatch ")]
    assert [command.split()[1] for command in commands] == ["demo", "fit", "predict", "evaluate", "audit"]
    for command in commands:
        with pytest.raises(SystemExit) as leaving:
            cli.main(shlex.split(command)[1:])
        assert leaving.value.code == 0, command
    assert (tmp_path / "demo/why-noise-matters.png").stat().st_size > 10_000
    assert len(list((tmp_path / "results/overlays").rglob("*.png"))) == 8
    assert (tmp_path / "metrics.json").exists()
    assert (tmp_path / "audit/index.html").stat().st_size > 10_000
    with pytest.raises(SystemExit):  # a demo can be run again over its own files
        cli.main(["demo", "-o", "demo"])
    (python,) = blocks("python")
    capsys.readouterr()
    exec(compile(python, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_commands_of_the_first_run_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parent.parent
    for page in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_setting_is_documented() -> None:
    from dataclasses import fields

    from softpatch.config import Settings

    settings = (Path(__file__).parent.parent / "docs/reference/settings.md").read_text()
    for field in fields(Settings):
        assert f"`{field.name}`" in settings, field.name


def test_examples_in_docstrings() -> None:
    import doctest

    import softpatch.estimator

    result = doctest.testmod(softpatch.estimator)
    assert result.attempted > 0
    assert result.failed == 0
