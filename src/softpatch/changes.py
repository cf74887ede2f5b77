"""A fitted detector is changed: images are added to what it learned from, or removed, without learning anew.

What a fit would do is approached, not repeated: patches of the images that stay are not chosen anew. Left-out scores
are taken anew of those whose files are at hand, a hundred images at most or as large a share of what is added.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import torch
from torch import Tensor

from softpatch.atomic import remove_leftovers, temporary_prefix
from softpatch.data.decisions import Decision, image_finder
from softpatch.data.images import ImageRef, SkippedImage, file_ref
from softpatch.detector import Detector, left_out_scores
from softpatch.errors import InputError
from softpatch.memory.bank import ChosenPatches, MemoryBank
from softpatch.memory.estimate import Contamination
from softpatch.memory.growth import additions_radii, choose_additions
from softpatch.memory.projection import project
from softpatch.passes import Seen, digested_embeddings, first_pass, full_embeddings
from softpatch.patch_detector import PatchDetector
from softpatch.progress import Progress, silent
from softpatch.scoring.threshold import LeftOutScores
from softpatch.training_record import TrainingRecord, training_record, with_images


def record_of(detector: Detector) -> tuple[TrainingRecord, LeftOutScores]:
    """What a detector learned from, and the scores its thresholds come from; `InputError` where a model has neither."""
    if detector.record is None or detector.left_out is None:
        raise InputError("this model was written before models kept what they learned from; fit anew")
    return detector.record, detector.left_out


def add_images(
    detector: Detector,
    refs: Sequence[ImageRef],
    *,
    known_good: bool = False,
    on_skip: Callable[[SkippedImage], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Detector:
    """Learn from further unlabelled images, of which some may be anomalous.

    Each is judged as it stands to what was learned before. One that is called good is trusted, as all are where they
    are `known_good`. Of an image that is not trusted nothing is learned, or under the discard rule "agreement" only as
    much as other images agree. Its score becomes a left-out score. Unreadable images, and copies of each other or of
    those learned from, go to `on_skip`. How many images are not trusted goes to `on_note`, in a sentence, and what
    keeps the thresholds from being those of the new bank.
    """
    record, _ = record_of(detector)
    settings, runtime = detector.settings, detector.runtime
    remove_leftovers(Path(gettempdir()))
    with TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as folder:
        seen = first_pass(
            refs, detector.backbone, settings, runtime, Path(folder), known=record, on_skip=on_skip, progress=progress
        )
        if not seen.refs:
            return detector
        judged = list(detector.predict(seen.refs, progress=progress))
        stands_out = torch.tensor([answer.verdict != "good" for answer in judged])
        if on_note and stands_out.any() and not known_good:
            examples = [answer.path for answer in judged if answer.verdict != "good"]
            on_note(
                f"{len(examples)} of the {len(judged)} added images look anomalous and are not trusted, "
                f"{examples[0]} for one"
            )
        trusted = ~stands_out | known_good
        banks = _grown(detector, seen, trusted.to(seen.projected.device), progress=progress)
    scores = LeftOutScores(
        torch.tensor([answer.image_score for answer in judged]),
        torch.tensor([float(answer.anomaly_map.max()) for answer in judged]),
        torch.tensor([answer.map_quartile for answer in judged]),
    )
    anomalous = 0 if known_good else int(stands_out.sum())
    grown = _with_added(replace(detector, banks=banks), seen, scores, anomalous)
    return _recalibrated(detector, grown, seen.refs, on_note=on_note, progress=progress)


def _grown(detector: Detector, seen: Seen, trusted: Tensor, *, progress: Progress) -> PatchDetector:
    """The banks with what they lack of the images `seen`, of which some are `trusted`, bool (n,)."""
    settings, device = detector.settings, seen.projected.device
    banks = detector.banks.to(device)
    places = seen.places.to(device)

    def described(bank: MemoryBank) -> Tensor:
        return project(bank.patches, settings.projected_dim, settings.seed)

    def choose(bank: MemoryBank) -> ChosenPatches:
        return choose_additions(
            bank,
            described(bank),
            seen.projected,
            trusted,
            places,
            with_untrusted=settings.discard_rule == "agreement",
            coreset_ratio=settings.coreset_ratio,
            max_bank_size=settings.max_bank_size,
            progress=progress,
        )

    for_image = choose(banks.classification)
    shared = banks.segmentation.patches is banks.classification.patches
    for_map = for_image if shared else choose(banks.segmentation)
    needed = torch.unique(torch.cat([for_image.indices, for_map.indices]))
    patches = full_embeddings(seen, needed, detector.backbone, settings, detector.runtime, progress=progress)

    def joined(bank: MemoryBank) -> MemoryBank:
        chosen = for_image if bank is banks.classification else for_map
        radii = additions_radii(chosen, bank, described(bank), seen.projected, trusted, places)
        new = replace(chosen, owners=chosen.owners + detector.training_images, radii=radii)
        return bank.joined(new.bank(patches[torch.searchsorted(needed, new.indices)]))

    return banks.with_banks(joined).to(detector.backbone.device)


def _with_added(detector: Detector, seen: Seen, scores: LeftOutScores, anomalous: int) -> Detector:
    """The detector with the record and the scores of images `seen`, so many of which look anomalous.

    Of a larger folder only some have left-out scores; as large a share of the new images has them.
    """
    record, left_out = record_of(detector)
    before, new = detector.training_images, len(seen.refs)
    sampled = max(1, round(new * len(record.calibrated) / before))
    numbers = torch.linspace(0, new - 1, sampled).long()
    added = training_record(seen.refs, seen.digests, (numbers + before).tolist(), record.symmetries)
    expected = (detector.settings.false_alarm_rate + detector.settings.check_share) * new
    contamination = _counted_anew(detector.contamination, before, new, max(0.0, anomalous - expected))
    return replace(
        detector,
        training_images=before + new,
        record=with_images(record, added),
        left_out=left_out.joined(scores.at(numbers)),
        contamination=contamination,
    )


def remove_images(
    detector: Detector,
    numbers: Sequence[int],
    *,
    on_note: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Detector:
    """Forget images, by their numbers in the record: their patches, and their left-out scores.

    What keeps the thresholds from being those of what is left of the bank goes to `on_note`, in a sentence. Raises
    `InputError` where fewer images stay than the settings need, or nothing to judge by.
    """
    record, left_out = record_of(detector)
    leaving = set(numbers)
    staying = [number for number in range(detector.training_images) if number not in leaving]
    fewest = detector.settings.fewest_images
    scored = [place for place, number in enumerate(record.calibrated) if number not in leaving]
    if len(staying) < fewest or not scored:
        raise InputError(
            f"without {len(leaving)} of its {detector.training_images} images the model would have learned from "
            f"{len(staying)}, too few for its settings, which need {fewest}; remove fewer, or add others first"
        )
    banks = detector.banks.with_banks(lambda bank: bank.of_images(torch.tensor(staying, device=bank.owners.device)))
    if not min(len(banks.classification.patches), len(banks.segmentation.patches)):
        raise InputError(f"without these {len(leaving)} images nothing of the memory bank is left; remove fewer")
    place_of = {number: place for place, number in enumerate(staying)}
    kept = replace(
        record,
        names=tuple(record.names[number] for number in staying),
        digests=tuple(record.digests[number] for number in staying),
        calibrated=tuple(place_of[record.calibrated[place]] for place in scored),
        kept=tuple(place_of[number] for number in record.kept if number in place_of),
    )
    gone = torch.tensor([number in leaving for number in record.calibrated])
    share = float((left_out.image_scores[gone] > detector.check_threshold).float().mean()) if gone.any() else None
    prior = 0.0 if detector.contamination is None else detector.contamination.estimate
    anomalous = (prior if share is None else share) * len(leaving)
    contamination = _counted_anew(detector.contamination, detector.training_images, -len(leaving), -anomalous)
    left = replace(
        detector,
        banks=banks,
        training_images=len(staying),
        record=kept,
        left_out=left_out.at(~gone),
        contamination=contamination,
    )
    return _recalibrated(detector, left, (), on_note=on_note, progress=progress)


def _counted_anew(before: Contamination | None, images: int, more: int, anomalous: float) -> Contamination | None:
    """The contamination of `images` and so many `more`, of which so many are `anomalous`; below 0 where some left."""
    if before is None:
        return None
    shares = ((images * share + anomalous) / (images + more) for share in (before.estimate, before.low, before.high))
    return Contamination(*(min(1.0, max(0.0, share)) for share in shares))


def _recalibrated(
    before: Detector,
    changed: Detector,
    given: Sequence[ImageRef],
    *,
    on_note: Callable[[str], None] | None,
    progress: Progress,
) -> Detector:
    """The changed detector with left-out scores of its own bank, and thresholds taken from them.

    Left-out scores stay where an image is neither among those `given` nor in its file. Thresholds stay that somebody
    set. Both go to `on_note`.
    """
    changed, stale = _with_scores_anew(changed, given, progress=progress)
    if on_note and stale:
        on_note(
            f"{stale} of the {len(record_of(changed)[0].calibrated)} images that thresholds are taken from are not at "
            "hand, so their scores are those of before; fit anew before you rely on the threshold"
        )
    if is_calibrated(before):
        return changed.calibrated(changed.settings.false_alarm_rate)
    if on_note:
        on_note(f"the threshold stays {before.threshold:.4g}, as it was set")
    return changed


def _with_scores_anew(detector: Detector, given: Sequence[ImageRef], *, progress: Progress) -> tuple[Detector, int]:
    """The detector with left-out scores taken anew of the images at hand, and how many it has of others.

    An image is known by its pixels, so that a file which has changed since is not at hand.
    """
    record, left_out = record_of(detector)
    in_memory = [ref for ref in given if ref.path is None]
    paths = record.paths
    files = [paths[number] for number in record.calibrated]
    refs = [file_ref(Path(path)) for path in files if os.path.isabs(path) and os.path.isfile(path)]  # noqa: PTH113, PTH117
    place_of = {record.digests[number]: place for place, number in enumerate(record.calibrated)}
    done = set[int]()
    seen = digested_embeddings([*refs, *in_memory], detector.backbone, detector.settings, detector.runtime)
    for digests, embeddings in seen:
        shown = [number for number, digest in enumerate(digests) if digest in place_of]
        if not shown:
            continue
        places = [place_of[digests[number]] for number in shown]
        numbers = torch.tensor([record.calibrated[place] for place in places], dtype=torch.int64)
        found = left_out_scores(detector.banks, [embeddings[shown]], numbers, detector.grid, detector.settings)
        left_out = left_out.replaced(torch.tensor(places), found)
        done.update(places)
        progress("calibration", len(done), len(place_of))
    return replace(detector, left_out=left_out), len(place_of) - len(done)


def is_calibrated(detector: Detector) -> bool:
    """Whether the threshold is the one calibrated on the training images, rather than one that somebody set."""
    calibrated = detector.thresholds_at(detector.settings.false_alarm_rate).threshold
    return abs(calibrated - detector.threshold) <= 1e-6 * calibrated


def numbers_of(record: TrainingRecord, paths: Sequence[str]) -> list[int]:
    """The numbers of the images that paths or patterns such as `*_003.png` mean, each once, in order.

    A path is looked for as it stands, as that of the same file, and as the end of one, a pattern too. Raises
    `InputError` where one means no image, or where a path without a pattern means several.
    """
    places = {path: number for number, path in enumerate(record.paths)}
    find = image_finder([file_ref(Path(path)) for path in places])
    found: set[int] = set()
    for path in paths:
        names = find(path)
        if not names and any(sign in path for sign in "*?["):
            pattern = os.path.abspath(path)  # noqa: PTH100
            names = {
                place
                for place, number in places.items()
                if fnmatchcase(f"/{record.names[number]}", f"*/{path}") or fnmatchcase(place, pattern)
            }
        elif len(names) > 1:
            raise InputError(f"{path!r} may be any of {len(names)} training images; write more of its path")
        if not names:
            raise InputError(
                f"{path!r} is none of the {len(places)} images that the model learned from; `softpatch info` says "
                "where they were"
            )
        found |= {places[name] for name in names}
    return sorted(found)


def recorded_images(
    record: TrainingRecord, root: Path | None = None, *, skip_missing: bool = False
) -> tuple[list[ImageRef], dict[str, Decision]]:
    """The images that were learned from or rejected, and what was decided on them, by their names, to learn anew.

    `root` is where the folder that all share is now. Raises `InputError` where files are missing, unless they are to be
    skipped, and where images were in memory.
    """
    if record.folder is None and root is not None:
        raise InputError(f"`root` is {str(root)!r}, but the images share no folder that could have moved")
    if root is not None:
        record = replace(record, folder=os.path.abspath(root))  # noqa: PTH100
    paths, rejected = record.paths, record.rejected_paths
    in_memory = next((path for path in (*paths, *rejected) if not os.path.isabs(path)), None)  # noqa: PTH117
    if in_memory is not None:
        raise InputError(f"the model learned from images in memory, such as {in_memory!r}; give them to fit again")
    missing = dict.fromkeys(path for path in (*paths, *rejected) if not os.path.isfile(path))  # noqa: PTH113
    if missing and not skip_missing:
        raise InputError(
            f"{len(missing)} of {len(paths) + len(rejected)} recorded images are missing, {next(iter(missing))} for "
            "one; say where their folder is now with `root`, or skip them with `skip_missing`"
        )
    decisions: dict[str, Decision] = {paths[number]: "keep" for number in record.kept}
    decisions |= dict.fromkeys(rejected, "reject")
    present = [path for path in (*paths, *rejected) if path not in missing]
    return [file_ref(Path(path)) for path in present], decisions


def refit(
    detector: Detector,
    root: Path | None = None,
    *,
    skip_missing: bool = False,
    on_skip: Callable[[SkippedImage], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    progress: Progress = silent,
) -> Detector:
    """Learn anew from the recorded images, with the recorded settings and decisions; see `recorded_images`.

    How many of the files have changed since goes to `on_note`, in a sentence.
    """
    record, _ = record_of(detector)
    refs, decisions = recorded_images(record, root, skip_missing=skip_missing)
    fitted = Detector.fit(
        refs,
        detector.settings,
        detector.runtime,
        decisions=decisions,
        on_skip=on_skip,
        on_note=on_note,
        progress=progress,
    )
    now, _ = record_of(fitted)
    before = set(record.digests)
    changed = [path for path, digest in zip(now.paths, now.digests, strict=True) if digest not in before]
    if changed and on_note:
        on_note(f"{len(changed)} of the {len(now.names)} files have changed since, {changed[0]} for one")
    return fitted
