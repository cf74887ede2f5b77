"""Put `softpatch serve` under load and check every answer: `python benchmarks/serve_load.py [--seconds 60] [--kill]`.

Client threads send images, a tenth of them bad requests, half as files to `/v1` and half by KServe's protocol. Each
answer is compared with what Python says of the same image in the same run, so one is right, wrong or lost. `--kill`
kills the server halfway as the kernel would, and starts it again: clients may see errors from then until it is back,
and at no other time. Figures go to a JSON file; throughput stands beside that of `SoftPatch.predict` in one process.
Memory is looked at after `WARM_UP` seconds, in which threads and allocators take what they keep. `make docs` makes the
table of the documentation of both runs, docs/lab/serve.json and docs/lab/serve_killed.json.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from statistics import mean, quantiles
from typing import Any

from softpatch.data.demo import write_demo_dataset
from softpatch.estimator import SoftPatch

PLAIN_SECONDS = 5.0
BAD_SHARE = 0.1
WARM_UP = 10.0
ROWS = [Path(__file__).parent.parent / "docs/lab" / name for name in ("serve.json", "serve_killed.json")]
HOST = "127.0.0.1"


@dataclass
class Load:
    """What clients share: what they ask, until when, and what came of it."""

    port: int
    images: list[tuple[bytes, dict[str, Any]]]
    until: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lost_at: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def note(self, what: str, seconds: float | None = None, example: str = "") -> None:
        with self.lock:
            self.counts[what] += 1
            if seconds is not None:
                self.seconds.append(seconds)
            if what == "lost":
                self.lost_at.append(time.monotonic())
            if what == "wrong" and len(self.examples) < 5:
                self.examples.append(example)


# --- requests: what is sent, and whether the answer is right ---


def by_v1(content: bytes, row: dict[str, Any]) -> tuple[str, bytes, dict[str, str], Any]:
    """An image file as it is; its row, but for the name, is the answer."""

    def is_right(status: int, body: bytes) -> bool:
        return status == 200 and json.loads(body)["images"] == [{**row, "path": "image"}]

    return "/v1/predict", content, {}, is_right


def by_v2(content: bytes, row: dict[str, Any]) -> tuple[str, bytes, dict[str, str], Any]:
    """An image file as a tensor of bytes; its score and label are the answer."""
    data = len(content).to_bytes(4, "little") + content
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    outputs = [{"name": "pred_score"}, {"name": "pred_label"}]
    head = json.dumps({"inputs": [image], "outputs": outputs}).encode()

    def is_right(status: int, body: bytes) -> bool:
        if status != 200:
            return False
        score, label = (output["data"][0] for output in json.loads(body)["outputs"])
        return round(score, 6) == row["image_score"] and label == row["is_anomalous"]

    return "/v2/models/model/infer", head + data, {"Inference-Header-Content-Length": str(len(head))}, is_right


def bad(content: bytes, random: Random) -> tuple[str, bytes, dict[str, str], Any]:
    """A request that has to be refused, and how."""
    path, body, headers, expected = random.choice(
        [
            ("/v1/predict", content[: len(content) // 2], {}, 400),
            ("/v1/predict", b"no image at all", {}, 400),
            ("/v1/predict", b"", {}, 400),
            ("/v1/predict?threshold=high", content, {}, 400),
            ("/v1/models/unknown/predict", content, {}, 404),
            ("/v2/models/model/infer", b"{", {}, 400),
            ("/v2/models/model/infer", b'{"inputs": []}', {}, 400),
            ("/v1/predict", content, {"Accept": "text/html"}, 406),
            ("/v1/predict", content, {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        ]
    )
    return path, body, headers, lambda status, answer: status == expected and bool(json.loads(answer)["error"])


def client(load: Load, seed: int) -> None:
    """Ask until the time is up, over one connection as long as it lasts."""
    random = Random(seed)
    connection = HTTPConnection(HOST, load.port, timeout=60)
    while time.monotonic() < load.until:
        content, row = random.choice(load.images)
        kind = random.random()
        ask = bad(content, random) if kind < BAD_SHARE else (by_v1 if kind < 0.55 else by_v2)(content, row)
        path, body, headers, is_right = ask
        began = time.monotonic()
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException):
            load.note("lost")
            connection.close()
            time.sleep(0.2)
            continue
        what = "refused as it should be" if kind < BAD_SHARE else "right"
        if not is_right(response.status, answer):
            what = "turned away" if response.status == 429 else "wrong"
        load.note(what, time.monotonic() - began, f"{path}: {response.status} {answer[:200]!r}")
    connection.close()


# --- the server as a process ---


def start(model: Path, port: int, log: Path) -> subprocess.Popen[str]:
    """Start a server, and wait until it has judged an image."""
    options = ["--port", str(port), "--device", "cpu"]
    with log.open("a") as errors:
        command = [sys.executable, "-m", "softpatch", "serve", str(model), *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert server.stdout is not None
    assert server.stdout.readline()
    return server


def ready_port(server: subprocess.Popen[str], port: int, content: bytes) -> float:
    """When the server has judged an image."""
    for _ in range(600):
        try:
            connection = HTTPConnection(HOST, port, timeout=60)
            connection.request("POST", "/v1/predict", content)
            if connection.getresponse().status == 200:
                return time.monotonic()
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError(f"the server did not come up; it left with {server.poll()}")


def resident_mb(process: int) -> float | None:
    """The resident memory of a process, where the system tells it."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    import socket

    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


# --- the run ---


def plain(detector: SoftPatch, paths: list[Path]) -> float:
    """Images a second of `SoftPatch.predict` in one process."""
    judged, began = 0, time.monotonic()
    while time.monotonic() - began < PLAIN_SECONDS:
        judged += len(detector.predict(paths))
    return judged / (time.monotonic() - began)


def run(folder: Path, seconds: float, clients: int, *, kill: bool) -> dict[str, Any]:
    """Fit, serve, load, and count."""
    write_demo_dataset(folder / "demo", train_good=20, train_anomalous=4, test_good=12, test_anomalous=12, size=256)
    model = folder / "model.safetensors"
    SoftPatch(device="cpu").fit(folder / "demo/train").save(model)
    detector = SoftPatch.load(model, device="cpu")
    paths = sorted((folder / "demo/test").rglob("*.png"))
    images = [(path.read_bytes(), detector.predict(path).as_dict()) for path in paths]
    alone = plain(detector, paths)
    port, log = free_port(), folder / "server.log"
    server = start(model, port, log)
    ready_port(server, port, images[0][0])
    began = time.monotonic()
    load = Load(port, images, until=began + seconds)
    threads = [threading.Thread(target=client, args=(load, seed)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    memory: list[float] = []
    killed_at = back_at = None
    while (now := time.monotonic()) < load.until:
        if kill and killed_at is None and now > began + seconds / 2:
            killed_at = now
            server.kill()
            server.wait()
            server = start(model, port, log)
            back_at = ready_port(server, port, images[0][0])
        used = resident_mb(server.pid)
        if used is not None and now > (back_at or began) + WARM_UP:
            memory.append(used)
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    lasted = time.monotonic() - began
    server.send_signal(signal.SIGTERM)
    status = server.wait(60)
    if server.stdout is not None:
        server.stdout.close()
    outside = sum(not (killed_at and back_at and killed_at <= at <= back_at + 0.5) for at in load.lost_at)
    return figures(load, lasted, alone, memory) | {
        "seconds": round(lasted, 1),
        "clients": clients,
        "killed": kill,
        "seconds_until_back": round(back_at - killed_at, 2) if killed_at and back_at else None,
        "lost_while_it_was_up": outside,
        "exit_status": status,
    }


def figures(load: Load, lasted: float, alone: float, memory: list[float]) -> dict[str, Any]:
    """What is written down of a run: counts, latencies in ms, throughput and memory."""
    quarter = max(1, len(memory) // 4)
    cuts = quantiles(load.seconds, n=100)
    judged = load.counts["right"]
    return {
        "requests": load.counts.total(),
        **{name.replace(" ", "_"): load.counts[name]
           for name in ("right", "refused as it should be", "wrong", "turned away", "lost")},
        "p50_ms": round(1000 * cuts[49], 1),
        "p95_ms": round(1000 * cuts[94], 1),
        "p99_ms": round(1000 * cuts[98], 1),
        "images_per_second": round(judged / lasted, 1),
        "plain_images_per_second": round(alone, 1),
        "memory_mb_first_quarter": round(mean(memory[:quarter]), 1) if memory else None,
        "memory_mb_last_quarter": round(mean(memory[-quarter:]), 1) if memory else None,
        "memory_mb": [round(used) for used in memory[:: max(1, len(memory) // 20)]],
        "wrong_examples": load.examples,
    }  # fmt: skip


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The figures in Markdown, a column for each run."""
    lines = [
        "| | " + " | ".join("killed halfway" if run["killed"] else "undisturbed" for run in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    rows = {
        "requests in {seconds:.0f} s": "{requests:,}",
        "right, and rightly refused": "{right:,}, {refused_as_it_should_be:,}",
        "wrong": "{wrong}",
        "lost while the server was up": "{lost_while_it_was_up}",
        "lost while it was not": "{lost_meanwhile}",
        "seconds until it judged again": "{back}",
        "p50, p95, p99": "{p50_ms:.0f}, {p95_ms:.0f}, {p99_ms:.0f} ms",
        "images a second, and of `predict` alone": "{images_per_second:.0f}, {plain_images_per_second:.0f}",
        "memory, first quarter and last": "{memory_mb_first_quarter:.0f}, {memory_mb_last_quarter:.0f} MB",
    }
    for name, text in rows.items():
        cells = [
            text.format(
                **run, lost_meanwhile=run["lost"] - run["lost_while_it_was_up"], back=run["seconds_until_back"] or ""
            )
            for run in runs
        ]
        lines.append(f"| {name.format(**runs[0])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run it, print the figures, write them; the status is 1 where an answer was wrong or lost without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kill", action="store_true", help="kill the server halfway, and start it again")
    parser.add_argument("-o", "--output", type=Path, default=Path("serve_load.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), given.seconds, given.clients, kill=given.kill)
    given.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["wrong"] or found["lost_while_it_was_up"] or found["exit_status"]))


if __name__ == "__main__":
    main()
