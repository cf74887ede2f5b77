"""How a video of a line is judged: `python benchmarks/video.py [--picture PICTURE]`.

The video is drawn: flanges pass under the camera on a belt, blurred by their motion, in light that flickers and drifts,
sensor noise on top, and are compressed as MPEG-4. A model is learned from two minutes of it, in which one of five
flanges is defective, and judges two others. Told are the image AUROC of frames (a frame is anomalous where at least
40 pixels of a defect are in view), how many of the defective flanges have an interval, and how many intervals are of
none, by how many scores are smoothed over; and how long a frame takes.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from softpatch.data.demo import defects_of_a_line
from softpatch.data.flange import RIM, photograph
from softpatch.data.video import video_refs
from softpatch.estimator import SoftPatch
from softpatch.review.timeline import intervals, write_timeline

PICTURE = Path(__file__).parent.parent / "docs/images/timeline.png"
_SIDE, _RATE, _SECONDS = 256, 15, 120
_PART, _SPACING, _SPEED = 190, 330, 9  # pixels: of a flange's image, from one to the next, and in a frame
_DEFECTIVE = 5  # one of so many flanges
_LEAST = 40  # pixels of a defect in view
_SMOOTHED = (1, 3, 5, 9)


@dataclass
class Passing:
    """What a video shows: for each frame the defective flange in view, by its number, or -1."""

    path: Path
    defect: list[int]


def film(path: Path, seed: int) -> Passing:
    """Draw a video of flanges on a belt."""
    rng = np.random.default_rng(seed)
    frames = _RATE * _SECONDS
    count = frames * _SPEED // _SPACING + 3
    faults = list(defects_of_a_line(rng, count))
    parts = [photograph(rng, _PART, faults[n] if n % _DEFECTIVE == 3 else None) for n in range(count)]
    axis = (np.arange(_PART) + 0.5) * 2 / _PART - 1
    disc = ndimage.gaussian_filter((np.hypot(axis, axis[:, None]) < RIM * 1.02).astype(float), 1)
    length = count * _SPACING + 2 * _SIDE
    belt = 50 + 9 * ndimage.gaussian_filter(rng.standard_normal((_SIDE, length)), (1, 3)) * 3
    strip, truth = belt[..., None].repeat(3, axis=2), np.full((_SIDE, length), -1)
    for number, (pixels, mask) in enumerate(parts):
        top, left = (_SIDE - _PART) // 2 + int(rng.integers(-6, 7)), _SIDE + number * _SPACING
        place = np.s_[top : top + _PART, left : left + _PART]
        strip[place] = strip[place] * (1 - disc[..., None]) + pixels * disc[..., None]
        truth[place][mask] = number
    drift = ndimage.gaussian_filter1d(rng.standard_normal(frames), 3 * _RATE) * 0.25
    shown = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = _SIDE, _SIDE, "yuv420p", 4_000_000
        stream.time_base = Fraction(1, _RATE)
        for number in range(frames):
            left = _SIDE // 2 + number * _SPEED
            blurred = np.mean([strip[:, left + step : left + step + _SIDE] for step in range(-2, 3)], axis=0)
            light = 1 + drift[number] + rng.normal(0, 0.015)
            pixels = np.clip(blurred * light + rng.normal(0, 2.5, blurred.shape), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            found, pixels_of = np.unique(truth[:, left : left + _SIDE], return_counts=True)
            seen = [int(part) for part, each in zip(found, pixels_of, strict=True) if part >= 0 and each >= _LEAST]
            shown.append(seen[0] if seen else -1)
        container.mux(stream.encode())
    return Passing(path, shown)


def main() -> None:
    """Film, learn, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        learned, judged = (film(Path(folder, f"{name}.mp4"), seed) for seed, name in enumerate(("learned", "judged")))
        estimator = SoftPatch(crop=256, symmetries="none").fit(video_refs(learned.path)[::2])
        refs = video_refs(judged.path)
        began = time.perf_counter()
        rows = [answer.as_dict() for answer in estimator.predict_each(refs)]
        each = (time.perf_counter() - began) / len(rows)
        truth: NDArray[np.int64] = np.array(judged.defect[: len(rows)])
        auroc = roc_auc_score(truth >= 0, [row["image_score"] for row in rows])
        times = [ref.seconds or 0.0 for ref in refs]
        parts = sorted(set(truth[truth >= 0].tolist()))
        flanges = len(rows) * _SPEED // _SPACING
        print(f"{len(rows)} frames, {each * 1000:.0f} ms each; image AUROC of frames {auroc:.3f}; {flanges} flanges\n")
        print("| smoothed over | defective flanges found | intervals of no defect |\n|---|---|---|")
        for count in _SMOOTHED:
            found = intervals(rows, times, count)
            spans = [range(round(one.begin * _RATE), round(one.end * _RATE) + 1) for one in found]
            hit = [{int(truth[place]) for place in span if place < len(truth)} - {-1} for span in spans]
            print(f"| {count} | {len(set().union(*hit))} of {len(parts)} | {sum(not each for each in hit)} |")
        write_timeline(rows, {ref.name: ref.seconds for ref in refs}, 5, Path(folder))
        given.picture.write_bytes(Path(folder, "timeline.png").read_bytes())


if __name__ == "__main__":
    main()
