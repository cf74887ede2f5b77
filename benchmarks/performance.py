"""Measure speed as ratios against references in the same run: `make bench DATA=FOLDER`, or

    python benchmarks/performance.py FOLDER [--weights FILE] [--anomalib PYTHON] [-o performance.json]

FOLDER has images of one product, best MVTec AD's bottle (209 of them). `--weights` is a safetensors file of ImageNet
ResNet-18 weights, for anomalib. PYTHON is the interpreter of an environment that has anomalib; without it the rows
that compare with it are left out, as is faiss where it is not installed. Each row says what ours took, what the
reference took, and how many times faster ours was; the targets are those that the project set itself. The ratios are
compared with those kept in performance_baseline.json: the command fails where one has fallen to less than `BAND` of
what it was. `--keep` makes the new ones the baseline.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from growth import compile_all
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor
from weight_rule import embed

from softpatch.config import DEFAULT_PRESET, Runtime, Settings, preset_settings
from softpatch.data.framing import Framing
from softpatch.data.images import ImageRef, read_in_batches
from softpatch.data.inputs import choose_images
from softpatch.detector import Detector
from softpatch.features.backbone import Backbone, _import_timm, load_backbone
from softpatch.features.embedding import patch_embeddings
from softpatch.memory.coreset import greedy_coreset
from softpatch.memory.discriminators import DISCRIMINATORS, NoiseSettings, noise_scores
from softpatch.memory.neighbours import nearest_neighbours, search_index

THREADS = 2
BAND = 0.6
BASELINE = Path(__file__).with_name("performance_baseline.json")
RUNTIME = Runtime(device="cpu", workers=THREADS)


@dataclass(frozen=True)
class Row:
    """A comparison: seconds of ours and of the reference, and the ratio that was aimed at."""

    what: str
    reference: str
    ours_s: float
    reference_s: float
    target: float
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.reference_s / self.ours_s

    @property
    def key(self) -> str:
        return f"{self.what}; {self.reference}"


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """The median time of a few rounds, after one that warms up."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)


def once(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def embed_as_roth(refs: list[ImageRef], backbone: Backbone) -> Tensor:
    """Embeddings (N, P, 1024) float16 as patchcore-inspection makes them: 3 x 3 patches averaged down."""
    found = []
    for _, _, images in read_in_batches(refs, Framing.square(256, 224).apply, batch_size=16, workers=THREADS):
        maps = backbone.feature_maps(images)
        layers = []
        for layer in maps:
            patches = F.unfold(layer, 3, padding=1).unflatten(2, layer.shape[2:])
            patches = F.interpolate(patches, size=maps[0].shape[2:], mode="bilinear")
            layers.append(F.adaptive_avg_pool1d(patches.flatten(2).mT, 1024))
        found.append(F.adaptive_avg_pool1d(torch.cat(layers, dim=2), 1024).half())
    return torch.cat(found)


# --- the parts ---


def coreset_rows(points: Tensor) -> list[Row]:
    """The whole coreset of ours; of the references the first picks, extrapolated."""
    count = len(points) // 10
    everything = torch.arange(len(points))
    picks: list[Tensor] = []
    ours = once(lambda: picks.append(greedy_coreset(points, everything, count)))
    values = points.float()
    first = int(picks[0][0])
    found: list[list[int]] = []
    cached = once(lambda: found.append(cached_norms_loop(values, first, 500))) / 500 * count
    same = sum(a == b for a, b in zip(found[0], picks[0].tolist(), strict=False))
    plain = once(lambda: concatenating_loop(values, first, 200)) / 200 * count
    shape = f"coreset, {count:,} of {len(points):,} x {points.shape[1]}"
    return [
        Row(shape, "torch loop with cached norms", ours, cached, 15, f"{same} of the first 500 picks are the same"),
        Row(shape, "products, root, concatenation, minimum", ours, plain, 60),
    ]


def cached_norms_loop(points: Tensor, first: int, count: int) -> list[int]:
    norms = points.square().sum(dim=1)
    nearest = torch.full((len(points),), torch.inf)
    picks = [first]
    while True:
        pick = picks[-1]
        nearest = torch.minimum(nearest, torch.addmv(norms + norms[pick], points, points[pick], alpha=-2))
        if len(picks) == count:
            return picks
        picks.append(int(nearest.argmax()))


def concatenating_loop(points: Tensor, first: int, count: int) -> None:
    """What patchcore-inspection's sampler computes at every pick."""
    nearest = torch.full((len(points), 1), torch.inf)
    pick = first
    for _ in range(count):
        chosen = points[pick : pick + 1]
        products = points.matmul(chosen.T)
        squared = -2 * products + points.square().sum(dim=1, keepdim=True) + chosen.square().sum(dim=1)
        nearest = torch.cat([nearest, squared.clamp_min(0).sqrt()], dim=1).min(dim=1, keepdim=True).values
        pick = int(nearest.argmax())


def sampled(embeddings: Tensor) -> Tensor:
    """A bank (16384, D) of patches drawn from embeddings (N, P, D)."""
    patches = embeddings.flatten(0, 1)
    return patches[torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:16384]]


def query_and_bank(refs: list[ImageRef], test: list[ImageRef], backbone: Backbone) -> tuple[Tensor, Tensor]:
    """The patches (P, D) of the first test image, and a bank."""
    return embed(test[:1], backbone, Settings())[0], sampled(embed(refs[:150], backbone, Settings()))


def search_rows(queries: Tensor, bank: Tensor, source: str) -> list[Row]:
    """One image against a bank."""
    index, values, asked = search_index(bank), bank.float(), queries.float()
    half_norms = values.square().sum(dim=1) / 2
    ours = seconds(lambda: nearest_neighbours(queries, index))
    references = {"addmm and min": lambda: torch.addmm(half_norms, asked, values.T, alpha=-1).min(dim=1)}
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(THREADS)
        flat = faiss.IndexFlatL2(values.shape[1])
        flat.add(values.numpy())
        references["faiss flat"] = lambda: flat.search(asked.numpy(), 1)
    distances, _ = nearest_neighbours(queries, index)
    exact = torch.cdist(asked.double(), values.double()).amin(dim=1)
    worst = float((distances - exact).abs().max() / exact.max())
    what = f"nearest neighbour, {len(asked)} x {len(values):,} x {values.shape[1]}, {source}"
    return [Row(what, name, ours, seconds(run), 3, f"off by {worst:.0e} at most") for name, run in references.items()]


def noise_rows(embeddings: Tensor) -> list[Row]:
    """Nearest, Gaussian and LOF of every position; of the reference every 16th position, extrapolated."""
    told = NoiseSettings()
    found: dict[str, Tensor] = {}

    def ours() -> None:
        groups = list(noise_scores(embeddings, tuple(DISCRIMINATORS), told))
        found.update({name: torch.cat([scores[name] for _, scores in groups], dim=1) for name in DISCRIMINATORS})

    every = embeddings[:, ::16].double()
    expected: dict[str, Tensor] = {}

    def reference() -> None:
        lof, gaussian = [], []
        for position in every.unbind(dim=1):
            model = LocalOutlierFactor(n_neighbors=told.lof_neighbors).fit(position.numpy())
            lof.append(torch.from_numpy(-model.negative_outlier_factor_))
            centred = position - position.mean(dim=0)
            covariance = centred.T @ centred / (len(centred) - 1)
            inverse = torch.linalg.inv(covariance + told.gaussian_epsilon * torch.eye(len(covariance)))
            gaussian.append(((centred @ inverse) * centred).sum(dim=1).sqrt())
        expected.update(lof=torch.stack(lof, dim=1), gaussian=torch.stack(gaussian, dim=1))

    taken, referred = seconds(ours, 3), once(reference) * embeddings.shape[1] / every.shape[1]
    worst = max(float((found[name][:, ::16] / value - 1).abs().max()) for name, value in expected.items())
    what = "nearest + Gaussian + LOF, {1} positions x {0} images x {2}".format(*embeddings.shape)
    return [Row(what, "loop of scikit-learn's LOF, and inverses", taken, referred, 6, f"off by {worst:.0e} at most")]


# --- the whole ---


def judge(detector: Detector, test: list[ImageRef]) -> None:
    for _ in detector.predict(test):
        pass


def whole_rows(refs: list[ImageRef], test: list[ImageRef], anomalib: dict[str, float]) -> list[Row]:
    """Fit and predict with the built-in backbone, and predict with Wide-ResNet50-2 against brute force."""
    detectors: list[Detector] = []
    plainer = once(lambda: detectors.append(Detector.fit(refs, Settings(), RUNTIME)))
    fitting = once(lambda: detectors.append(Detector.fit(refs, preset_settings(DEFAULT_PRESET, {}), RUNTIME)))
    plainly, predicting = (seconds(partial(judge, detector, test), 3) / len(test) for detector in detectors)
    rows = [
        Row(f"fit, {len(refs)} images", "softpatch+", fitting, plainer, 0.4),
        Row("predict, per image", "softpatch+", predicting, plainly, 0.67),
    ]
    if anomalib:
        rows += [
            Row(f"fit, {len(refs)} images", "anomalib PatchCore, resnet18", fitting, anomalib["fit"], 30),
            Row("predict, per image", "anomalib PatchCore, resnet18", predicting, anomalib["predict"], 8),
        ]
    wide = Settings(backbone="wide_resnet50_2", weights="random", discriminators=(), discard_rule="fixed",
                    discard_fraction=0.0, segmentation_discard_fraction=None, weight_rule="none")  # fmt: skip
    detector = Detector.fit(refs, wide, RUNTIME)
    bank = detector.banks.classification.patches.float()
    half_norms = bank.square().sum(dim=1) / 2
    plain = _import_timm().create_model("wide_resnet50_2", features_only=True, out_indices=(2, 3)).eval()

    def brute() -> None:
        for _, _, images in read_in_batches(test, Framing.square(256, 224).apply, batch_size=16, workers=THREADS):
            with torch.inference_mode():
                patches = patch_embeddings(plain(images.contiguous()), 1024).float()
            for image in patches:
                torch.addmm(half_norms, image, bank.T, alpha=-1).min(dim=1)

    ours = seconds(lambda: list(detector.predict(test)), 1) / len(test)
    rows.append(
        Row("predict, per image, wide_resnet50_2, PatchCore", "brute force, network as timm has it", ours,
            seconds(brute, 1) / len(test), 2, "random weights")
    )  # fmt: skip
    return rows


def of_anomalib(python: str, refs: list[ImageRef], test: list[ImageRef], weights: Path) -> dict[str, float]:
    """Seconds that anomalib's PatchCore takes to fit (extrapolated) and to predict an image, in its own environment."""
    script = Path(__file__).with_name("anomalib_reference.py")
    with tempfile.TemporaryDirectory() as folder:
        lists = [Path(folder, name) for name in ("train", "test")]
        for path, images in zip(lists, (refs, test), strict=True):
            path.write_text("\n".join(str(ref.path) for ref in images))
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        command = [python, script, *lists, weights]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    times: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return times


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of rows as they are kept."""
    lines = ["| what | reference | ours | reference | times faster | target | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        times = " | ".join(f"{_three_digits(row[name])} s" for name in ("ours_s", "reference_s"))
        ratio, target = _three_digits(row["ratio"]), f"{row['target']:g}"
        lines.append(f"| {row['what']} | {row['reference']} | {times} | {ratio} | {target} | {row['note']} |")
    return "\n".join(lines)


def _three_digits(value: float) -> str:
    """Rounded to three digits that count, never as a power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


def fallen(rows: list[Row], baseline: dict[str, float]) -> list[str]:
    """A sentence for every ratio that is less than `BAND` of its baseline."""
    return [
        f"{row.key}: {row.ratio:.2f} times faster, it was {baseline[row.key]:.2f}"
        for row in rows
        if row.ratio < BAND * baseline.get(row.key, 0)
    ]


def main() -> None:
    """Measure everything, print the table and compare it with the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="ResNet-18, safetensors")
    parser.add_argument("--anomalib", help="an interpreter that has anomalib")
    parser.add_argument("--keep", action="store_true", help="the ratios become the baseline")
    parser.add_argument("-o", "--output", type=Path, default=Path("performance.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    compilation = once(compile_all)
    refs = choose_images(arguments.folder, "train").refs
    test = choose_images(arguments.folder, "predict").refs
    network = load_backbone("builtin-v1")
    builtin = embed(refs, network, Settings())
    rows = coreset_rows(builtin.flatten(0, 1))
    rows += noise_rows(torch.cat([builtin, embed(test[:41], network, Settings())]))
    rows += search_rows(*query_and_bank(refs, test, network), "builtin-v1")
    network = load_backbone("wide_resnet50_2", weights="random")
    rows += search_rows(*query_and_bank(refs, test, network), f"{network.name}, random")
    if arguments.weights:
        network = load_backbone("resnet18", weights=str(arguments.weights))
        rows += search_rows(*query_and_bank(refs, test, network), network.name)
        queries, bank = embed_as_roth(test[:1], network)[0], sampled(embed_as_roth(refs[:150], network))
        rows += search_rows(queries, bank, "resnet18 as in patchcore-inspection")
    times = {}
    if arguments.anomalib and arguments.weights:
        times = of_anomalib(arguments.anomalib, refs, test, arguments.weights)
    rows += whole_rows(refs, test, times)
    kept = [{**asdict(row), "ratio": round(row.ratio, 2)} for row in rows]
    print(f"{table(kept)}\n\nCompilation, once per process and in none of the times: {compilation:.1f} s")
    found = {"machine": f"{platform.processor() or platform.machine()}, {THREADS} threads", "torch": torch.__version__}
    found["compilation_s"] = round(compilation, 2)
    found["rows"] = kept
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    baseline: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if arguments.keep:
        ratios = baseline | {row.key: round(row.ratio, 2) for row in rows}
        BASELINE.write_text(json.dumps(ratios, indent=1) + "\n")
    elif slower := fallen(rows, baseline):
        raise SystemExit("\n".join(slower))


if __name__ == "__main__":
    main()
