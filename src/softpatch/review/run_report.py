"""The report on a run of `softpatch predict`: one page that says what was found, the most anomalous images first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from softpatch.config import Verdict
from softpatch.data.images import SkippedImage
from softpatch.review.charts import histogram, score_axis
from softpatch.review.page import write_page
from softpatch.review.run import Run
from softpatch.review.top_pictures import Picture

MOST_PICTURES = 300
"""So many images, those with the highest scores, are shown with pictures."""
MOST_ROWS = 10_000
"""So many more are listed in a table."""


def write_run_report(
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Picture],
    skipped: Sequence[SkippedImage],
    run: Run,
    path: Path,
) -> None:
    """Write the page of a run at `path`.

    `rows` are those of its table, one or more, `pictures` those that were kept, by path, and `skipped` the images that
    were left out.
    """
    ranked = sorted(rows, key=lambda row: (row["image_score"], row["path"]), reverse=True)
    verdicts = Counter(row["verdict"] for row in rows)
    threshold, check_threshold = (rows[0][name] for name in ("threshold", "check_threshold"))
    scores = {
        verdict: np.array([row["image_score"] for row in rows if row["verdict"] == verdict])
        for verdict in get_args(Verdict)
    }
    axis = score_axis(np.concatenate(list(scores.values())), threshold, check_threshold)
    listed = [row for row in ranked if row["path"] not in pictures]
    write_page(
        path,
        "run_report.html",
        styles=("report.css",),
        scripts=("run_report.js",),
        title="Inspection report",
        root=run.root,
        folder=Path(run.root).name or run.root,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        model_digest=run.model,
        images=len(rows),
        verdicts=verdicts,
        unlike=sum(row["is_unlike_training"] for row in rows),
        threshold=threshold,
        check_threshold=check_threshold,
        histogram=histogram(axis, scores),
        shown=[(row, pictures[row["path"]]) for row in ranked if row["path"] in pictures],
        listed=listed[:MOST_ROWS],
        unlisted=len(listed[MOST_ROWS:]),
        skipped=skipped,
    )
