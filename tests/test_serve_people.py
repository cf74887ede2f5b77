"""`/v1`: images in as files, rows and pictures out, equal to those of Python; whatever is wrong is one sentence."""

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import plate
from serving import Served, form, serving, soon
from softpatch.deploy.serve.people import accepted
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.uploads import client_name
from softpatch.estimator import SoftPatch
from softpatch.review.pictures import save_map, save_overlay


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


GOOD, BAD = png(plate(60)), png(plate(101, defective=True))


@pytest.fixture(scope="module")
def served(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    fitted.save(folder / "flange.safetensors")
    (folder / "screw").mkdir()
    for version in (1, 2):
        shutil.copyfile(folder / "flange.safetensors", folder / f"screw/{version}.safetensors")
    with serving(folder) as served:
        yield served


@pytest.fixture
def said(fitted: SoftPatch, tmp_path: Path) -> dict[str, object]:
    """What Python says of the defective plate in a file."""
    (tmp_path / "bad.png").write_bytes(BAD)
    row: dict[str, object] = fitted.predict(tmp_path / "bad.png").as_dict()
    return row


def test_one_image_as_it_is(served: Served, said: dict[str, object]) -> None:
    answer = served.post("/v1/models/flange/predict", BAD)
    assert answer.status == 200
    assert answer.json == {"model": "flange", "version": "1", "images": [said | {"path": "image"}]}
    assert said["is_anomalous"]
    assert served.post("/v1/predict?model=screw", BAD).json["version"] == "2"
    assert served.post("/v1/models/screw/predict?version=1", BAD).json["version"] == "1"


def test_images_of_a_form_and_one_that_is_none(served: Served, said: dict[str, object]) -> None:
    body, kind = form(("a/b.png", BAD), ("..\\evil.png", b"no image"), ("c.png", GOOD))
    answer = served.post("/v1/models/flange/predict", body, Content_Type=kind)
    first, second, third = answer.json["images"]
    assert (answer.status, first) == (200, said | {"path": "b.png"})
    assert second.keys() == {"path", "error"}
    assert second["path"] == "evil.png"
    assert third["verdict"] == "good"


def test_the_threshold_of_a_request(served: Served, fitted: SoftPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(BAD)
    (row,) = served.post("/v1/models/flange/predict?threshold=1e3", BAD).json["images"]
    assert row == fitted.predict(tmp_path / "bad.png", threshold=1000).as_dict() | {"path": "image"}
    assert row["verdict"] == "good"


def test_details_for_the_page(served: Served, fitted: SoftPatch, tmp_path: Path, said: dict[str, object]) -> None:
    (row,) = served.post("/v1/models/flange/predict?details=1", BAD).json["images"]
    regions = fitted.predict(tmp_path / "bad.png").regions()
    assert [tuple(each["box"]) for each in row["regions"]] == [each.box for each in regions]
    assert row["heat"].startswith("data:image/png;base64,")
    assert {name: row[name] for name in said} == said | {"path": "image"}


def test_maps_and_overlays_are_those_of_files(served: Served, fitted: SoftPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(BAD)
    prediction = fitted.predict(tmp_path / "bad.png")
    save_map(prediction, tmp_path / "map.tiff")
    answer = served.post("/v1/models/flange/predict", BAD, Accept="image/tiff")
    assert answer.headers["content-type"] == "image/tiff"
    assert answer.headers["x-verdict"] == "anomalous"
    found = tifffile.imread(io.BytesIO(answer.body))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tifffile.imread(tmp_path / "map.tiff"))
    image = np.asarray(Image.open(io.BytesIO(BAD)))
    import torch

    save_overlay(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1), prediction, tmp_path / "overlay.png")
    answer = served.post("/v1/models/flange/predict", BAD, Accept="image/png")
    assert answer.body == (tmp_path / "overlay.png").read_bytes()
    answer = served.post("/v1/models/flange/predict?picture=map", BAD, Accept="image/png")
    pixels = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert pixels.dtype == np.uint16
    expected = prediction.map_at_original_size() / prediction.map_threshold * 10_000
    np.testing.assert_allclose(pixels, expected.clip(0, 65535), atol=1)


def test_many_at_once_get_what_python_says(served: Served, fitted: SoftPatch) -> None:
    plates = [plate(seed, defective=seed % 2 == 0) for seed in range(300, 324)]
    expected = [fitted.predict(each).as_dict() | {"path": "image"} for each in plates]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: served.post("/v1/models/flange/predict", png(each)), plates))
    assert [answer.json["images"] for answer in answers] == [[row] for row in expected]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/v1/predict", BAD, {}, 400, "2 models are served; ask for one of them: flange, screw"),
        ("/v1/models/bolt/predict", BAD, {}, 404, "there is no model 'bolt'; there is flange, screw"),
        ("/v1/models/screw/predict?version=9", BAD, {}, 404, "has no version '9'; it has 1, 2"),
        ("/v1/models/flange/predict", b"", {}, 400, "the request has no image"),
        ("/v1/models/flange/predict", b"text", {}, 400, "image cannot be judged: the file is not a PNG"),
        ("/v1/models/flange/predict", BAD[: len(BAD) // 2], {}, 400, "cut short"),
        ("/v1/models/flange/predict?threshold=-1", BAD, {}, 400, "the threshold is '-1'"),
        ("/v1/models/flange/predict?threshold=nan", BAD, {}, 400, "the threshold is 'nan'"),
        ("/v1/models/flange/predict?details=perhaps", BAD, {}, 400, "details is 'perhaps'"),
        ("/v1/predict?treshold=2", BAD, {}, 400, "the parameter 'treshold' is unknown; choose from "),
        ("/v1/predict?treshold=2", BAD, {}, 400, "did you mean 'threshold'?"),
        ("/v1/models/flange/predict?picture=x", BAD, {}, 400, "the picture is 'x'; it must be overlay or map"),
        ("/v1/models/flange/predict", BAD, {"Accept": "text/html"}, 406, "answers are application/json"),
        ("/v1/models/flange/predict", b"x", {"Content_Type": "multipart/form-data"}, 400, "boundary"),
        ("/v1/models/flange/predict", b"x", {"Content_Type": "multipart/form-data; boundary=e"}, 400, ""),
        ("/v1/nothing", b"", {}, 404, "Not Found"),
        ("/v1/models", b"", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    served: Served, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = served.post(path, body, **headers)
    assert answer.status == status
    assert words in answer.error
    assert "/" not in answer.error.replace(path, "").replace("application/json, image/png, image/tiff", "").replace(
        "text/html", ""
    )


def test_an_image_too_large_is_refused_before_it_is_decoded(served: Served) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, format="PNG")
    answer = served.post("/v1/models/flange/predict", file.getvalue())
    assert (answer.status, "20000 x 20000 pixels, more than the 100,000,000 allowed" in answer.error) == (400, True)


def test_errors_name_no_file_of_the_server(served: Served) -> None:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    tifffile.imwrite(file, rng.integers(0, 255, (40, 40, 3), dtype=np.uint8), compression="zlib")
    whole = file.getvalue()
    broken = [whole[: len(whole) * share // 10] for share in range(1, 10)]
    for place in range(0, 300, 7):
        broken.append(whole[:place] + bytes([255 - whole[place]]) + whole[place + 1 :])
    body, kind = form(*((f"{number}.tif", each) for number, each in enumerate(broken)))
    answer = served.post("/v1/models/flange/predict", body, Content_Type=kind)
    assert answer.status == 200
    errors = [row["error"] for row in answer.json["images"] if "error" in row]
    assert len(errors) > 9
    assert not [error for error in errors if "upload-" in error or "softpatch-" in error or "/tmp" in error]


def test_more_images_than_a_request_may_have(served: Served) -> None:
    body, kind = form(*((f"{number}.png", b"x") for number in range(101)))
    answer = served.post("/v1/models/flange/predict", body, Content_Type=kind)
    assert (answer.status, "Maximum number of files is 100" in answer.error) == (400, True)


def test_no_upload_is_left_behind(served: Served) -> None:
    served.post("/v1/models/flange/predict", BAD, Accept="image/png")
    served.post("/v1/models/flange/predict", b"none")
    assert list(served.service.uploads._folder.iterdir()) == []


def test_the_models_are_listed(served: Served) -> None:
    expected = [{"name": "flange", "versions": ["1"]}, {"name": "screw", "versions": ["1", "2"]}]
    assert served.get("/v1/models").json == {"models": expected}


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/png;q=0.4, image/tiff;q=0.5", "image/tiff"),
        ("text/html, */*;q=0.1", "application/json"),
        ("image/png;q=x, image/tiff", "image/tiff"),
    ],
)
def test_accept(header: str, kind: str) -> None:
    assert accepted(header) == kind


def test_nothing_acceptable() -> None:
    with pytest.raises(RequestError, match="Accept is 'image/png;q=0'"):
        accepted("image/png;q=0")


def test_names_of_clients() -> None:
    assert client_name("a\nb\u202e.png") == "a\\nb\\u202e.png"
    assert client_name("C:\\photos\\0417.png") == "0417.png"
    assert client_name("x/" * 50 + "\udcff") == "?"
    assert client_name("") == client_name("///") == "image"
    assert len(client_name("long" * 100 + ".png")) == 100


def test_a_file_that_changes_is_served_from_then_on(fitted: SoftPatch, tmp_path: Path) -> None:
    path = tmp_path / "flange.safetensors"
    fitted.save(path)
    with serving(path) as served:
        clock = served.service.models
        before = served.post("/v1/predict", BAD).json["images"][0]
        other = SoftPatch.load(path, weights="random", device="cpu")
        other.threshold = 2 * fitted.threshold
        other.save(path)
        clock._looked_at -= 10
        after = served.post("/v1/predict", BAD).json["images"][0]
        assert after["threshold"] == pytest.approx(2 * before["threshold"], abs=1e-5)
        assert after["image_score"] == before["image_score"]
        path.write_bytes(path.read_bytes()[:-100])
        clock._looked_at -= 10
        assert served.post("/v1/predict", BAD).json["images"][0] == after
        assert (
            'softpatch_model_loads_total{model="flange",outcome="failed"} 1.0' in served.get("/metrics").body.decode()
        )


def test_every_line_of_the_log_is_json_and_shows_no_image(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    body, kind = form(('"}\n{"event": "forged.png', BAD))
    served.post("/v1/models/flange/predict", body, Content_Type=kind)
    lines: list[dict[str, object]] = []

    def noted() -> list[dict[str, object]]:
        lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
        return [line for line in lines if "forged" in str(line.get("images"))]

    (line,) = soon(noted)
    assert (line["status"], line["route"], line["model"]) == (200, "/v1/models/{name}/predict", "flange")
    assert line["verdicts"] == ["anomalous"]
    assert {line["event"] for line in lines} <= {"request", "model"}
    assert all(len(json.dumps(line)) < 500 for line in lines)


def test_metrics_count_verdicts_and_scores(served: Served) -> None:
    def value(name: str) -> float:
        lines = [line for line in served.get("/metrics").body.decode().splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    anomalous = 'softpatch_verdicts_total{model="screw",verdict="anomalous"}'
    above = 'softpatch_score_ratio_bucket{le="1.0",model="screw"}'
    routes = 'softpatch_requests_total{route="/v1/models/{name}/predict",status="200"}'
    before = value(anomalous), value(above), value(routes)
    served.post("/v1/models/screw/predict", BAD)
    served.post("/v1/models/screw/predict", GOOD)
    assert soon(lambda: value(routes) == before[2] + 2)
    assert (value(anomalous), value(above)) == (before[0] + 1, before[1] + 1)
    assert value("softpatch_waiting_images") == 0
    assert 1 <= value("softpatch_loaded_models") <= 3
