"""An audit as plain files: a CSV table with a row per image, and JSON Lines with their regions and groups."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softpatch.atomic import replacing
from softpatch.data.cells import path_cell, table_cell
from softpatch.errors import InputError
from softpatch.review.audit import AuditedRegion, FolderAudit

CSV, LINES = "audit.csv", "audit.jsonl"
AUDIT_TABLES = (CSV, LINES)
"""The tables that `audit` leaves in a folder."""
COLUMNS = (
    "path",
    "suspicion",
    "evidence",
    "image_score",
    "threshold",
    "margin",
    "verdict",
    "decision",
    "regions",
    "box_left",
    "box_top",
    "box_right",
    "box_bottom",
    "area",
    "agreeing",
    "counterpart",
    "groups",
)
"""The columns of `audit.csv`: what is said of the image, of the region that speaks most against it, and its groups."""


def write_audit_tables(audit: FolderAudit, folder: Path) -> None:
    """Write `audit.csv` and `audit.jsonl`, the most suspicious image first, whole or not at all."""
    rows = [_row(audit, number) for number in range(len(audit.images))]
    with replacing(folder / CSV) as table, replacing(folder / LINES) as lines:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(_cells(row) for row in rows)
        with lines.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def check_can_replace_audit(folder: Path, others: Sequence[str]) -> None:
    """Raise `InputError` where a file lies in `folder` under a name of ours that is not of an audit."""
    path = folder / CSV
    if not path.exists():
        foreign = next((each for each in (folder / name for name in (*others, LINES)) if each.exists()), None)
        if foreign:
            raise InputError(f"{foreign} exists and is not of an audit; choose another folder with -o")
        return
    beginning = ",".join(COLUMNS[:4]).encode()
    with path.open("rb") as file:
        found = file.read(len(beginning))
    if found != beginning:
        raise InputError(f"{path} exists and is no table of an audit; choose another folder with -o")


def _row(audit: FolderAudit, number: int) -> dict[str, Any]:
    image = audit.images[number]
    prediction = image.prediction
    return {
        "path": image.path,
        "suspicion": round(image.suspicion, 4),
        "evidence": round(image.evidence, 4),
        "image_score": round(prediction.image_score, 6),
        "threshold": round(prediction.threshold, 6),
        "margin": round(prediction.margin, 4) if prediction.threshold else None,
        "verdict": prediction.verdict,
        "decision": audit.decisions.get(image.path),
        "regions": [_region(region) for region in image.regions],
        "groups": [
            {"kind": group.kind, "images": len(group.images), "evidence": group.evidence}
            for group in audit.groups
            if number in group.images
        ],
    }


def _region(region: AuditedRegion) -> dict[str, Any]:
    like = region.counterpart
    return {
        "box": list(region.box),
        "area": region.area,
        "peak": round(region.peak, 6),
        "mean": round(region.mean, 6),
        "agreeing": region.agreeing,
        "counterpart": None if like is None else {"path": like.path, "box": list(like.box)},
    }


def _cells(row: dict[str, Any]) -> dict[str, object]:
    highest = row["regions"][0] if row["regions"] else None
    boxes = (
        dict(zip(("box_left", "box_top", "box_right", "box_bottom"), highest["box"], strict=True)) if highest else {}
    )
    like = highest and highest["counterpart"]
    groups = "; ".join(f"{group['kind']}: {group['evidence']}" for group in row["groups"])
    return {
        **row,
        **boxes,
        "path": path_cell(row["path"]),
        "regions": len(row["regions"]),
        "area": highest and highest["area"],
        "agreeing": highest and highest["agreeing"],
        "counterpart": like and path_cell(like["path"]),
        "groups": table_cell(groups),
    }
