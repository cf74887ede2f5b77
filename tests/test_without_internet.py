"""What docs/how-to/without-internet.md says can be typed: softpatch's commands run, pip's and podman's are read."""

import argparse
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import typer
from safetensors.torch import save_file

from softpatch import cli
from softpatch.data.demo import write_demo_dataset
from softpatch.features.backbone import load_backbone

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / f"docs/how-to/{name}.md").read_text() for name in ("without-internet", "behind-http")}
PINNED = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))


def lines(page: str, *languages: str) -> list[str]:
    kinds = "|".join(languages)
    blocks = re.findall(rf"^```(?:{kinds})\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    small = partial(write_demo_dataset, train_good=6, train_anomalous=1, test_good=2, test_anomalous=2, size=128)
    monkeypatch.setattr("softpatch.review.demo.write_demo_dataset", small)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    monkeypatch.chdir(tmp_path)
    write_resnet18(tmp_path / "weights/model.safetensors")
    commands = [line for line in lines("without-internet", "sh") if line.startswith("softpatch ")]
    assert [command.split()[1] for command in commands] == ["--version", "demo", "fit", "predict", "fit", "predict"]
    for command in commands:
        with pytest.raises(SystemExit) as leaving:
            cli.main(shlex.split(command)[1:])
        assert leaving.value.code == 0, (command, capsys.readouterr().err)
    assert len((tmp_path / "results/predictions.csv").read_text().splitlines()) == 5


def write_resnet18(path: Path) -> None:
    """Weights of a ResNet-18 as they lie on the hub: all of them, by timm's names."""
    load_backbone("resnet18", weights="random")  # which makes timm ready
    import timm

    path.parent.mkdir()
    save_file(timm.create_model("resnet18").state_dict(), path)


def test_what_is_carried_is_what_is_pinned() -> None:
    given = [line for page in PAGES for line in lines(page, "sh") if " pip " in line]
    versions = dict(re.findall(r"(torch(?:vision)?)==(\S+)", "\n".join(given)))
    assert versions == {name: PINNED[name] for name in ("torch", "torchvision")}
    from_elsewhere = [line for line in given if "download.pytorch.org" not in line and "--no-deps" not in line]
    assert all("--constraint constraints.txt" in line or "--no-index" in line for line in from_elsewhere)


@pytest.mark.parametrize("line", [line for line in lines("without-internet", "sh", "bat") if " pip " in line])
def test_pip_takes_its_options(line: str) -> None:
    pip = pytest.importorskip("pip._internal.commands", reason="pip is not installed")
    words = shlex.split(line.replace("\\", "/"))
    verb, *words = words[words.index("pip") + 1 :]
    options, rest = pip.create_command(verb, isolated=True).parse_args(words)
    assert rest, "what is installed"
    assert options.find_links in ([], ["wheelhouse"])


def podman_parser() -> argparse.ArgumentParser:
    """The options of `podman run` that the pages use."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for flag in ("--detach", "--read-only", "--no-healthcheck"):
        parser.add_argument(flag, action="store_true")
    for option in ("--tmpfs", "--cap-drop", "--publish", "--volume", "--secret", "--userns", "--restart"):
        parser.add_argument(option, action="append")
    parser.add_argument("image")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def test_containers_are_started_shut_in_and_with_commands_that_exist() -> None:
    runs = [line for line in lines("behind-http", "sh") if re.match(r"(podman|docker) run", line)]
    verbs = []
    for line in runs:
        given = podman_parser().parse_args(shlex.split(line)[2:])
        assert (given.read_only, given.tmpfs, given.cap_drop) == (True, ["/tmp"], ["all"])
        assert given.image == "softpatch"
        mounted = {volume.split(":")[1]: volume for volume in given.volume}
        assert mounted["/models"].endswith(":ro")
        if given.words:
            verb, *words = given.words
            command = typer.main.get_command(cli.app).commands[verb]  # type: ignore[attr-defined]
            read = command.make_context(verb, words).params
            written = [read[name] for name in ("folder", "output", "token_file") if name in read]
            assert all(any(path.is_relative_to(place) for place in mounted) for path in written)
        else:
            assert given.secret == ["softpatch-token,type=env,target=SOFTPATCH_TOKEN"]
        verbs.append(given.words[0] if given.words else "")
    assert verbs == ["", "serve", "watch"]
