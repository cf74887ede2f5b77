"""The suspects of an audit go to other tools, and what people make of them comes back."""

import json
from pathlib import Path

import numpy as np
import pytest

from softpatch.data.decisions import decisions_for, read_decisions
from softpatch.data.images import file_ref
from softpatch.memory.belief import Belief, Hypotheses
from softpatch.review.audit import AuditedImage, AuditedRegion, FolderAudit
from softpatch.review.exports import write_coco, write_fiftyone
from test_region_tables import two_blots

NAMES = ("1.png", "sub/1.png", "sub/caf\udce9\n.png", "good.png")


@pytest.fixture
def audit(tmp_path: Path) -> FolderAudit:
    """Two suspects with regions, one without, and an image that is none."""
    images = []
    for name, suspicion, score in zip(NAMES, (0.98765, 0.9, 0.5, 0.1), (2.0, 2.0, 0.5, 0.5), strict=True):
        prediction = two_blots(str(tmp_path / name), score=score)
        regions = [AuditedRegion(**vars(each), agreeing=3, counterpart=None) for each in prediction.regions()]
        corners = ((1, 2), (3, 2), (3, 5), (1, 5))
        other = AuditedRegion((1, 2, 3, 5), 6, (corners,), 1.0, 1.0, 1, 2, 0, None)
        found = (*regions, other) if name == "1.png" else tuple(regions)
        images.append(AuditedImage(prediction.path, suspicion, 0.0, prediction, found))
    belief = Belief(np.array([image.suspicion for image in images]), 0.6, 0.5, 0.7)
    return FolderAudit(tuple(images), (), belief, Hypotheses(np.zeros(1), np.ones(1), np.ones(1)))


def test_suspects_in_coco_format(audit: FolderAudit, tmp_path: Path) -> None:
    write_coco(audit, tmp_path / "out/suspects.json")
    coco = json.loads((tmp_path / "out/suspects.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == list(NAMES[:3])
    assert [note["image_id"] for note in coco["annotations"]] == [1, 1, 1, 2, 2, 3]
    assert [note["id"] for note in coco["annotations"]] == [1, 2, 3, 4, 5, 6]
    first, _, other, *_, whole = coco["annotations"]
    assert (first["bbox"], first["segmentation"]) == ([40, 20, 6, 3], [[40, 20, 46, 20, 46, 23, 40, 23]])
    assert (first["score"], first["attributes"]) == (0.9877, {"suspicion": 0.9877, "agreeing": 3})
    assert (other["bbox"], other["area"], other["segmentation"]) == ([1, 2, 2, 3], 6, [[1, 2, 3, 2, 3, 5, 1, 5]])
    assert (whole["bbox"], whole["area"]) == ([0, 0, 64, 32], 64 * 32)


def test_what_people_leave_marked_is_rejected(audit: FolderAudit, tmp_path: Path) -> None:
    path = tmp_path / "suspects.json"
    write_coco(audit, path)
    coco = json.loads(path.read_text())
    coco["annotations"] = [note for note in coco["annotations"] if note["image_id"] != 2]
    path.write_text(json.dumps(coco))
    refs = [file_ref(tmp_path / name) for name in NAMES]
    assert decisions_for(read_decisions(path), refs) == {
        str(tmp_path / "1.png"): "reject",
        str(tmp_path / "sub/1.png"): "keep",
        str(tmp_path / NAMES[2]): "reject",
    }


def test_a_dataset_of_fiftyone_names_images_where_they_are(audit: FolderAudit, tmp_path: Path) -> None:
    write_fiftyone(audit, tmp_path / "dataset")
    coco = json.loads((tmp_path / "dataset/labels.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [str(tmp_path / name) for name in NAMES[:3]]
    assert len(coco["annotations"]) == 6
    assert list((tmp_path / "dataset/data").iterdir()) == []
    refs = [file_ref(tmp_path / name) for name in NAMES]
    decided = decisions_for(read_decisions(tmp_path / "dataset/labels.json"), refs)
    assert decided == dict.fromkeys((str(tmp_path / name) for name in NAMES[:3]), "reject")


def test_an_audit_without_suspects_is_an_empty_list(audit: FolderAudit, tmp_path: Path) -> None:
    write_coco(FolderAudit((), (), audit.belief, audit.hypotheses), tmp_path / "suspects.json")
    assert read_decisions(tmp_path / "suspects.json") == {}
