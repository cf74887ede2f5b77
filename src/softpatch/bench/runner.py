"""Run tasks and write a row for each."""

import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import groupby
from multiprocessing import get_context, parent_process
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty, Queue
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softpatch.bench import cflow, family, igd, mutual, padim
from softpatch.bench.features import Features
from softpatch.bench.machine import forget_peak, machine, peak_memory
from softpatch.bench.methods import METHODS
from softpatch.bench.outcome import Outcome
from softpatch.bench.panel import keep_maps
from softpatch.bench.rows import Row, finished, row_file, task_key
from softpatch.bench.task import Task
from softpatch.config import PRETRAINED, RANDOM, Runtime, Settings
from softpatch.data.contamination import ContaminatedSplit, contaminate
from softpatch.data.framing import Framing
from softpatch.data.layouts import Dataset, Sample, open_dataset
from softpatch.errors import SoftPatchError
from softpatch.features.backbone import load_backbone, torch_device
from softpatch.features.embedding import patch_embeddings
from softpatch.progress import Progress, silent
from softpatch.scoring.metrics import evaluate_scores

_MUTUAL = {"musc": mutual.mean_of_nearest, "meds": mutual.mean_over_memories}


def run_tasks(
    tasks: Sequence[Task],
    output: Path,
    root: Path,
    runtime: Runtime,
    *,
    jobs: int = 1,
    maps: bool = False,
    on_row: Callable[[Row], None] = lambda _: None,
    progress: Progress = silent,
) -> None:
    """Run the tasks that have no row in `output` yet, and append one for each as soon as it is there.

    The folders of the datasets, and files of weights, are seen from `root`. A task that fails gets a row with its
    error, and the others go on; it is run again the next time. `jobs` processes share the work, each with its own
    datasets and backbones. With `maps` some anomaly maps of each task are kept in a folder beside `output`.
    """
    groups = [list(group) for _, group in groupby(sorted(tasks, key=_shared), key=_shared)]
    folder = output.with_name(f"{output.stem}-maps") if maps else None
    with row_file(output) as (rows, append):
        done = finished(rows)
        waiting = [[task for task in group if task_key(task) not in done] for group in groups]
        for row in _rows_of([group for group in waiting if group], root, runtime, folder, jobs, progress):
            append(row)
            on_row(row)


def _shared(task: Task) -> tuple[str, ...]:
    """Tasks for which this is equal look at the same features."""
    settings = task.detector_settings()
    framing = (Framing.of(settings), settings.value_range, settings.embedding_dim, settings.layers)
    run = METHODS[task.method].run
    run = "" if run in ("images", *_MUTUAL) else run
    seed = task.seed if run == "padim" or task.weights == RANDOM else ""  # of PaDiM's channels or the network
    return (task.data, task.layout, task.category, task.backbone, task.weights, *map(str, (*framing, seed)), run)


def _rows_of(
    groups: list[list[Task]], root: Path, runtime: Runtime, maps: Path | None, jobs: int, progress: Progress
) -> Iterator[Row]:
    if jobs == 1 or len(groups) < 2:
        for group in groups:
            yield from run_group(group, root, runtime, maps, progress=progress)
        return
    context = get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_end_with_parent)
    with manager:
        waiting, found = manager.Queue(), manager.Queue()
        for group in groups:
            waiting.put(group)
        threads = max(1, torch.get_num_threads() // jobs)
        arguments = (waiting, found, root, runtime, maps, threads)
        workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(min(jobs, len(groups)))]
        for worker in workers:
            worker.start()
        try:
            total = left = sum(len(group) for group in groups)
            while left and (any(worker.is_alive() for worker in workers) or not found.empty()):
                progress("tasks", total - left, total)
                try:
                    row = found.get(timeout=0.5)
                except Empty:
                    continue
                left -= 1
                yield row
        finally:
            for worker in workers:
                worker.kill()  # what it has not handed over is run again
    progress("tasks", total - left, total)
    if left:
        raise SoftPatchError(
            f"{left} of {total} tasks were not run: a process was killed, probably for want of memory; the rows that "
            "are there stay, so run the same command again with fewer `jobs`"
        )


def _work(
    waiting: Queue[list[Task]],
    found: Queue[Row],
    root: Path,
    runtime: Runtime,
    maps: Path | None,
    threads: int,
) -> None:
    """A process of its own: run groups as long as any wait, and hand their rows over."""
    _end_with_parent()
    torch.set_num_threads(threads)
    with suppress(Empty):
        while True:
            for row in run_group(waiting.get_nowait(), root, runtime, maps):
                found.put(row)


def _end_with_parent() -> None:
    """Have this process end when its parent does, even if that was killed; Ctrl-C is left to the parent."""
    signal(SIGINT, SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True, name="softpatch-parent").start()


def run_group(
    tasks: list[Task], root: Path, runtime: Runtime, maps: Path | None = None, *, progress: Progress = silent
) -> Iterator[Row]:
    """The rows of tasks that share a category and its features; some anomaly maps are kept in the folder `maps`."""
    first, settings = tasks[0], tasks[0].detector_settings()
    try:
        dataset = open_dataset(root / first.data, layout=first.layout, category=first.category)
        features = _features(first, root, settings, runtime, progress)
        truth = _Truth(Framing.of(settings))
    except Exception as error:
        yield from (_row(task, {"error": _sentence(error)}) for task in tasks)
        return
    for task in tasks:
        forget_peak()
        try:
            yield _row(task, _measured(task, dataset, truth, features, maps, progress))
        except Exception as error:
            yield _row(task, {"error": _sentence(error)})


def _sentence(error: Exception) -> str:
    """What went wrong, and where in the code if that was not foreseen."""
    if isinstance(error, SoftPatchError | ImportError | OSError):
        return str(error)
    return "".join(traceback.format_exception(error, limit=-1)).strip()


def _features(task: Task, root: Path, settings: Settings, runtime: Runtime, progress: Progress) -> Features:
    layers, run = settings.layers, METHODS[task.method].run
    if layers is None and run in ("padim", "cflow") and "resnet" in task.backbone:
        layers = ("layer1", "layer2", "layer3")  # as both papers have it
    embed: Callable[[Sequence[Tensor]], Tensor]
    if run == "padim":
        embed = partial(padim.chosen_channels, backbone=task.backbone, seed=task.seed)
    elif run == "cflow":
        embed = cflow.flattened
    elif run == "igd":
        embed = igd.pooled_and_pixels
    else:
        embed = partial(patch_embeddings, embedding_dim=settings.embedding_dim)
    backbone = load_backbone(
        task.backbone,
        layers=layers,
        weights=task.weights if task.weights in (PRETRAINED, RANDOM) else str(root / task.weights),
        image_size=settings.seen_side,
        device=torch_device(runtime.device),
        offline=runtime.offline,
        seed=task.seed,
        progress=progress,
    )
    return Features(backbone, settings, runtime, embed, pixels=run == "igd")


def _measured(
    task: Task, dataset: Dataset, truth: "_Truth", features: Features, maps: Path | None, progress: Progress
) -> dict[str, Any]:
    split = contaminate(dataset, protocol=task.protocol, noise_ratio=task.noise_ratio, seed=task.seed)
    method = METHODS[task.method]
    learned = split
    if method.clean_training:
        good = [not anomalous for anomalous in split.train_is_anomalous]
        refs = tuple(ref for ref, keep in zip(split.train, good, strict=True) if keep)
        learned = replace(split, train=refs, train_is_anomalous=(False,) * len(refs))
    outcome = _run(task, learned, features, task.detector_settings(), progress)
    scored = truth.of(split.test, outcome)
    metrics = {**evaluate_scores(*scored).as_dict(), "missed_at_1": _missed(*scored[:2])}
    predicting = features.seconds_per_image + outcome.predict_seconds / len(split.test)
    return {
        **{name: None if value is None else round(value, 5) for name, value in metrics.items()},
        **{name: round(value, 5) for name, value in outcome.found.items()},
        "fit_seconds": round(features.seconds_per_image * len(learned.train) + outcome.fit_seconds, 3),
        "predict_seconds": round(predicting * len(split.test), 3),
        "images_per_second": round(1 / predicting, 2),
        "peak_memory": peak_memory(),
        "training_images": len(learned.train),
        "test_images": len(split.test),
        "injected": [Path(os.path.relpath(path, dataset.root)).as_posix() for path in split.injected],
        "maps": None if maps is None else _keep(task, maps, split, outcome),
    }


def _missed(labels: NDArray[np.bool_], scores: NDArray[np.float32], false_alarms: float = 0.01) -> float | None:
    """The share of anomalous images that score no higher than 1 % of the good ones do; None where either is absent."""
    if labels.all() or not labels.any():
        return None
    return float((scores[labels] <= np.quantile(scores[~labels], 1 - false_alarms)).mean())


def _run(task: Task, split: ContaminatedSplit, features: Features, settings: Settings, progress: Progress) -> Outcome:
    run = METHODS[task.method].run
    if run == "padim":
        return padim.run(split, features, settings, progress=progress)
    if run in ("cflow", "igd"):
        trained = cflow.run if run == "cflow" else igd.run
        return trained(split, features, settings, task.budget, progress=progress)
    if run in _MUTUAL:
        return mutual.run(split, features, settings, _MUTUAL[run], progress=progress)
    return family.run(
        split,
        features,
        settings,
        drop_images=run == "images",
        answers=task.answers,
        asked=task.asked,
        progress=progress,
    )


def _keep(task: Task, folder: Path, split: ContaminatedSplit, outcome: Outcome) -> str:
    """Keep some maps of a task in a file, and say which, seen from the rows."""
    settings = task.detector_settings()
    name = f"{sha256(task_key(task).encode()).hexdigest()[:16]}.safetensors"
    keep_maps(folder / name, split.test, outcome.maps, Framing.of(settings))
    return f"{folder.name}/{name}"


class _Truth:
    """Labels and masks of test images, read once."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._masks: dict[Path, NDArray[np.bool_] | None] = {}

    def of(
        self, samples: Sequence[Sample], outcome: Outcome
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32], list[NDArray[np.bool_]], list[NDArray[np.float32]]]:
        """Labels and image scores (n,), and the masks and maps of those whose mask is known."""
        known = [(self._mask(sample), a_map) for sample, a_map in zip(samples, outcome.maps, strict=True)]
        masks = [mask for mask, _ in known if mask is not None]
        maps = [a_map for mask, a_map in known if mask is not None]
        return np.array([sample.is_anomalous for sample in samples]), outcome.image_scores, masks, maps

    def _mask(self, sample: Sample) -> NDArray[np.bool_] | None:
        if sample.path not in self._masks:
            mask = self._framing.apply_to_mask(sample.read_mask()).numpy() if sample.is_mask_known else None
            self._masks[sample.path] = mask
        return self._masks[sample.path]


def _row(task: Task, found: dict[str, Any]) -> Row:
    return {"task_key": task_key(task), **task.as_row(), "error": None, **found, **machine()}


def failures(rows: Iterable[Row]) -> list[str]:
    """A sentence for every row with an error."""
    return [f"{row['category']}, {row['method']}: {row['error']}" for row in rows if row.get("error")]
