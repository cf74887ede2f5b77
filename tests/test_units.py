"""The units for systemd: their commands are read, they may write what these write, and systemd takes them."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from softpatch import cli
from softpatch.deploy.serve.settings import ServeSettings

PACKAGING = Path(__file__).parent.parent / "packaging"
WATCH, SERVE = (PACKAGING / f"softpatch-{name}.service" for name in ("watch", "serve"))


def service_of(unit: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser["Service"]


def options(unit: Path) -> dict[str, Any]:
    """What the command of a unit says, by parameter, as the command line reads it."""
    program, verb, *words = service_of(unit)["ExecStart"].split()
    assert program == "/opt/softpatch/bin/softpatch"
    assert f"softpatch-{verb}.service" == unit.name
    command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
    return dict(command.make_context(verb, words).params)


def test_the_watcher_may_write_where_it_writes() -> None:
    given = options(WATCH)
    allowed = service_of(WATCH)["ReadWritePaths"].split()
    written = (given["output"], given["move"], given["folder"])
    assert all(any(path.is_relative_to(place) for place in allowed) for path in written)


def test_the_server_asks_for_the_token_that_systemd_hands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTPATCH_TOKEN", raising=False)
    given, service = options(SERVE), service_of(SERVE)
    name, source = service["LoadCredential"].split(":")
    assert str(given["token_file"]) == f"${{CREDENTIALS_DIRECTORY}}/{name}"
    settings = ServeSettings(tuple(given["models"]), host=given["host"], port=given["port"], token="0" * 32)
    assert not settings.is_loopback  # which takes a token
    assert "ReadWritePaths" not in service
    how_to_begin = SERVE.read_text().split("[Unit]")[0]
    assert {source, str(given["models"][0])} <= set(re.findall(r"/etc/[\w/]+", how_to_begin))


def test_both_are_shut_in_alike() -> None:
    watch, serve = dict(service_of(WATCH)), dict(service_of(SERVE))
    assert (serve["NoNewPrivileges"], serve["ProtectSystem"]) == ("yes", "strict")
    for own in ("ExecStart", "UMask"):
        assert watch.pop(own) != serve.pop(own)
    del watch["ReadWritePaths"], serve["LoadCredential"]
    assert watch == serve
    assert (serve["Restart"], serve["KillSignal"]) == ("on-failure", "SIGTERM")


@pytest.mark.parametrize("unit", [WATCH, SERVE], ids=lambda unit: unit.stem)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/softpatch/bin/softpatch", sys.executable))
    ended = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert [line for line in ended.stderr.splitlines() if unit.name in line] == []
