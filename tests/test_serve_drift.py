"""A server tells when the images that its models are asked about change, as a plain loop over them does."""

import io
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from conftest import plate
from serving import Served, form, serving
from softpatch.deploy.serve.batching import Batcher, Judged
from softpatch.deploy.serve.catalogue import ModelFile
from softpatch.deploy.serve.drift import Drifts
from softpatch.estimator import SoftPatch
from softpatch.model_file import save_detector
from softpatch.results import Prediction
from softpatch.scoring.drift import Drift
from test_serve_batching import Held, images, model


def png(number: int, light: float = 1.0, *, defective: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray((plate(300 + number, defective=defective) * light).astype(np.uint8)).save(file, format="PNG")
    return file.getvalue()


STREAM = [png(number, 1.0 if number < 20 else 0.5) for number in range(50)]


def plain(fitted: SoftPatch, files: Sequence[bytes]) -> Drift:
    """What a loop over predictions says after the last."""
    drift = fitted.drift()
    for file in files:
        answer = fitted.predict(np.asarray(Image.open(io.BytesIO(file))))
        drift = drift.after(answer.map_quartile, is_good=answer.verdict == "good")
    return drift


@pytest.fixture(scope="module")
def loop(fitted: SoftPatch) -> Drift:
    """After the whole stream."""
    found = plain(fitted, STREAM)
    assert found.alarm is not None
    assert found.alarm.kind == "images changed"
    return found


@pytest.fixture
def served(fitted: SoftPatch, tmp_path: Path) -> Iterator[Served]:
    fitted.save(tmp_path / "flange.safetensors")
    (tmp_path / "screw").mkdir()
    shutil.copyfile(tmp_path / "flange.safetensors", tmp_path / "screw/2.safetensors")
    with serving(tmp_path, loaded=1) as served:
        yield served


LABELS = ("model", "version", "kind")


def gauges(served: Served) -> dict[tuple[str, ...], float]:
    """The gauges of drift, by name and labels."""
    text = served.get("/metrics").body.decode()
    return {
        (sample.name.removeprefix("softpatch_"), *(sample.labels[name] for name in LABELS if name in sample.labels)): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if set(sample.labels) - {"kind"} == {"model", "version"}
    }


def expected(drift: Drift, name: str = "flange", version: str = "1") -> dict[tuple[str, ...], float]:
    kind = drift.alarm and drift.alarm.kind
    return {
        ("evidence_images_changed", name, version): drift.changed.evidence,
        ("evidence_more_defects", name, version): drift.more.evidence,
        ("recent_share_standing_out", name, version): drift.recent_share,
        ("alarm", name, version, "images changed"): float(kind == "images changed"),
        ("alarm", name, version, "more defects"): float(kind == "more defects"),
    }


def send(served: Served, files: Sequence[bytes], query: str = "") -> None:
    for begin in range(0, len(files), 10):
        body, kind = form(*((f"{number}.png", each) for number, each in enumerate(files[begin : begin + 10])))
        assert served.post(f"/v1/models/flange/predict{query}", body, Content_Type=kind).status == 200


def told(served: Served, path: str = "/v1/models/flange/drift") -> Any:
    return served.get(path).json["drift"]


def events(text: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == "drift"]


def test_metrics_log_and_json_say_what_a_plain_loop_says(
    served: Served, fitted: SoftPatch, loop: Drift, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauges(served) == {}
    assert told(served) is None
    send(served, STREAM[:20])
    calm = plain(fitted, STREAM[:20])
    assert calm.alarm is None
    assert gauges(served) == pytest.approx(expected(calm))
    assert events(capsys.readouterr().err) == []
    send(served, STREAM[20:])
    assert gauges(served) == pytest.approx(expected(loop))
    assert loop.alarm is not None
    assert told(served) == {
        "images": 50,
        "usual_share": round(loop.usual_share, 4),
        "recent_share": round(loop.recent_share, 4),
        "evidence": {
            "images changed": round(loop.changed.evidence, 2),
            "more defects": round(loop.more.evidence, 2),
            "alarm_from": 4.0,
        },
        "alarm": {**vars(loop.alarm), "sentence": loop.sentence},
    }
    (event,) = events(capsys.readouterr().err)
    assert (event["model"], event["version"], event["alarm"], event["ended"]) == ("flange", 1, "images changed", None)
    assert event["sentence"] == loop.sentence
    send(served, [*STREAM[:20]] * 5)
    (event,) = events(capsys.readouterr().err)
    assert (event["alarm"], event["ended"]) == (None, "images changed")
    assert told(served)["alarm"] is None


@pytest.mark.parametrize("query", ["?drift=false", "?drift=0&threshold=0"])
def test_what_is_not_of_the_line_does_not_count(query: str, served: Served, fitted: SoftPatch) -> None:
    send(served, STREAM[:10])
    send(served, STREAM[20:40], query)
    assert gauges(served) == pytest.approx(expected(plain(fitted, STREAM[:10])))


def test_the_threshold_of_a_request_and_files_that_are_no_images_change_nothing(
    served: Served, fitted: SoftPatch
) -> None:
    send(served, [STREAM[0], b"no image", STREAM[1]], "?threshold=0.001")
    assert gauges(served) == pytest.approx(expected(plain(fitted, STREAM[:2])))


def test_a_wrong_word_is_told(served: Served) -> None:
    answer = served.post("/v1/models/flange/predict?drift=perhaps", STREAM[0])
    assert (answer.status, "drift is 'perhaps'" in answer.error) == (400, True)
    assert served.get("/v1/models/bolt/drift").status == 404
    assert served.get("/v1/models/screw/drift?version=1").status == 404


@pytest.mark.parametrize("counts", [None, True, False])
def test_the_protocol_of_triton_counts_too(counts: bool | None, served: Served, fitted: SoftPatch) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(STREAM[0])))
    head = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [*pixels.shape], "data": pixels.ravel().tolist()}],
        "parameters": {} if counts is None else {"drift": counts},
    }
    assert served.post("/v2/models/flange/infer", json.dumps(head)).status == 200
    assert gauges(served) == pytest.approx({} if counts is False else expected(plain(fitted, STREAM[:1])))
    head["parameters"] = {"drift": "no"}
    answer = served.post("/v2/models/flange/infer", json.dumps(head))
    assert (answer.status, answer.error) == (400, "the parameter `drift` is 'no'; it must be true or false")


def test_each_model_has_its_own_also_when_it_was_dropped_from_memory(served: Served, fitted: SoftPatch) -> None:
    send(served, STREAM[:10])
    served.post("/v1/models/screw/predict", STREAM[30])  # for which there is room in place of the other
    send(served, STREAM[10:20])
    both = {**expected(plain(fitted, STREAM[:20])), **expected(plain(fitted, STREAM[30:31]), "screw", "2")}
    assert gauges(served) == pytest.approx(both)
    assert told(served)["images"] == 20
    assert served.service.models.count_loaded() == 1


def test_requests_at_the_same_time_count_once_each_in_the_order_of_judging(
    served: Served, fitted: SoftPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift, follow = fitted.drift(), served.service.drifts.follow
    seen: list[float] = []

    def noting(file: ModelFile, judged: Sequence[Judged]) -> None:
        nonlocal drift
        assert threading.current_thread().name == "softpatch-judge"
        for each in judged:
            assert isinstance(each.answer, Prediction)
            seen.append(each.answer.map_quartile)
            drift = drift.after(each.answer.map_quartile, is_good=each.answer.verdict == "good")
        follow(file, judged)

    monkeypatch.setattr(served.service.drifts, "follow", noting)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: served.post("/v1/models/flange/predict", file), STREAM))
    answers = [fitted.predict(np.asarray(Image.open(io.BytesIO(file)))) for file in STREAM]
    assert sorted(seen) == sorted(each.map_quartile for each in answers)
    assert gauges(served) == expected(drift)


def test_a_model_that_is_replaced_begins_anew_and_one_that_is_gone_is_forgotten(
    fitted: SoftPatch, tmp_path: Path
) -> None:
    path = tmp_path / "flange.safetensors"
    fitted.save(path)
    with serving(tmp_path) as served:
        models = served.service.models
        send(served, STREAM)
        other = SoftPatch.load(path, weights="random", device="cpu")
        other.threshold = 2 * fitted.threshold
        other.save(path)
        models._looked_at -= 10
        send(served, STREAM[:1])
        assert gauges(served) == pytest.approx(expected(plain(other, STREAM[:1])))
        path.rename(tmp_path / "screw.safetensors")
        models._looked_at -= 10
        assert gauges(served) == {}
        assert served.post("/v1/predict", STREAM[0]).status == 200
        assert served.service.drifts._drifts.keys() == served.service.drifts._stamps.keys() == {("screw", 1)}


def test_an_alarm_ends_in_the_log_where_its_model_is_replaced(
    fitted: SoftPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flange.safetensors"
    fitted.save(path)
    with serving(tmp_path) as served:
        send(served, STREAM)
        alarm = served.service.drifts.current()["flange", 1].alarm
        assert alarm is not None
        other = SoftPatch.load(path, weights="random", device="cpu")
        other.threshold = 2 * fitted.threshold
        other.save(path)
        served.service.models._looked_at -= 10
        capsys.readouterr()
        send(served, STREAM[:1])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (said,) = [line for line in lines if line["event"] == "drift"]
    assert (said["model"], said["version"], said["alarm"], said["ended"]) == ("flange", 1, None, alarm.kind)
    assert said["sentence"] == "the model file was replaced or removed; the test begins anew"


def test_a_model_that_does_not_know_what_is_usual_serves_without(
    fitted: SoftPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fitted.detector.left_out is not None
    older = replace(fitted.detector, left_out=replace(fitted.detector.left_out, map_quartiles=None))
    save_detector(older, tmp_path / "flange.safetensors")
    with serving(tmp_path) as served:
        send(served, STREAM[:20])
        assert gauges(served) == {}
        assert told(served) is None
    (event,) = events(capsys.readouterr().err)
    assert event["sentence"].startswith("whether images change is not told: this model was written before")


def test_answers_are_told_in_order_and_without_those_that_failed() -> None:
    work, answered = Held(), list[tuple[str, list[str], bool]]()
    made: Batcher[str] = Batcher(
        work,  # type: ignore[arg-type]
        size=4,
        wait=0.0,
        on_answers=lambda job, answers: answered.append((job.file.name, list(answers), job.counts)),
    )
    first = made.submit(model("a"), images("0"))
    assert work.begun.wait(10)
    jobs = [made.submit(model("a"), images(name), counts=name != "2") for name in ("1", "bad", "2")]
    work.go.set()
    made.close()
    assert first.future.result(0) == ["a:0"]
    assert isinstance(jobs[1].future.exception(0), ValueError)
    assert answered == [("a", ["a:0"], True), ("a", ["a:1"], True), ("a", ["a:2"], False)]


def test_a_request_that_nobody_waits_for_does_not_count(fitted: SoftPatch, tmp_path: Path) -> None:
    fitted.save(tmp_path / "flange.safetensors")
    with serving(tmp_path) as served:
        service = served.service
        one = service.models.find("flange")
        seen = threading.Event()
        inner = service.batcher._on_answers

        def abandoned(job: Any, answers: Any) -> None:
            job.is_abandoned = job.refs[0].name == "left.png"
            inner(job, answers)
            seen.set()

        service.batcher._on_answers = abandoned
        for name in ("left.png", "kept.png"):
            body, kind = form((name, STREAM[0]))
            assert served.post("/v1/predict", body, Content_Type=kind).status == 200
        assert seen.is_set()
        assert service.drifts.current()[one.key].images == 1


def test_nothing_is_known_of_a_model_before_it_is_asked() -> None:
    assert Drifts(lambda: {"a": {1: model("a")}}).current() == {}
