"""Changed images and more defects are told from each other, soon and seldom for nothing; the state is kept as JSON."""

import json
from dataclasses import replace
from itertools import pairwise
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import plate, tiny_softpatch
from softpatch import Drift, InputError, SoftPatch, cli
from softpatch.model_file import save_detector
from softpatch.results import map_quartile
from softpatch.review.drift import course_of, draw_drift, drift_in_words, write_drift
from softpatch.scoring.drift import LEVEL, Cusum, rank_odds, standing_out_odds
from softpatch.scoring.threshold import LeftOutScores
from test_cli import run


def begun(count: int = 100, standing_out: int = 5) -> Drift:
    quartiles = np.random.default_rng(7).normal(size=count).tolist()
    return Drift.begun(quartiles[standing_out:], quartiles[:standing_out])


def followed(drift: Drift, quartiles: np.ndarray, good: np.ndarray) -> list[Drift]:
    """The drift after each image."""
    states = []
    for quartile, is_good in zip(quartiles.tolist(), good.tolist(), strict=True):
        drift = drift.after(quartile, is_good=is_good)
        states.append(drift)
    return states


def calm(seed: int, count: int, rate: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=count), rng.random(count) >= rate


def test_odds_worked_by_hand() -> None:
    usual = [float(n) for n in range(1, 11)]
    assert rank_odds([usual[::2], usual[1::2]], 20.0) == pytest.approx(
        [2 * 21 / 22, 4 * (21 / 22) ** 3, 16 * (21 / 22) ** 15]
    )
    assert rank_odds([usual], 5.0)[0] == pytest.approx(2 * 5 / 11)  # the middle of 4/11 and 6/11
    assert rank_odds([[3.0] * 10], 3.0)[0] == pytest.approx(1)
    assert standing_out_odds(1, 10, False)[0] == pytest.approx(22 / 13)
    assert standing_out_odds(1, 10, True)[0] == pytest.approx(11 / 12)


def test_no_bet_is_more_than_fair_whatever_the_order() -> None:
    values = [1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 5.0, 8.0, 9.0, 9.0, 11.0]
    odds = [rank_odds([sorted(values[:n] + values[n + 1 :])], values[n]) for n in range(11)]
    assert (np.mean(odds, axis=0) <= 1 + 1e-12).all()
    assert np.mean(odds, axis=0)[0] == pytest.approx(1)
    stands_out = [True, True, True, *[False] * 8]
    odds = [standing_out_odds(sum(stands_out) - each, 10, not each) for each in stands_out]
    assert np.mean(odds, axis=0) == pytest.approx([1, 1, 1])


def test_a_cusum_begins_anew_when_nothing_is_left_and_rises_no_further_than_its_bound() -> None:
    cusum = Cusum.begun(2, 0).after([0.1, 10.0], 0).after([10.0, 10.0], 1)
    assert cusum == Cusum((1.0, 2.0), (1, 0))
    assert cusum.evidence == pytest.approx(log10(55))
    assert cusum.first == 0
    assert cusum.after([1.0, 1e9], 2).logs == (1.0, LEVEL + 1)


def test_evidence_after_one_image_is_the_mean_of_its_odds() -> None:
    drift = Drift.begun([float(n) for n in range(10, 0, -1)], [99.0]).after(20.0, is_good=True)
    expected = (2 * 21 / 22 + 4 * (21 / 22) ** 3 + 16 * (21 / 22) ** 15) / 3
    assert drift.changed.evidence == pytest.approx(log10(expected))
    assert drift.more.evidence == 0
    assert drift.usual == (*range(1, 11), 20.0)
    assert (drift.usual_others, drift.images, drift.recent) == ((99.0,), 1, (False,))
    other = drift.after(1e6, is_good=False)  # which defects it has does not matter
    assert other.changed == drift.changed
    assert other.more.evidence == pytest.approx(log10(np.mean([t / (1 + (t - 1) * 2 / 13) for t in (2, 4, 8)])))
    assert (other.usual, other.usual_others) == (drift.usual, (99.0, 1e6))


def test_nothing_is_told_while_nothing_changes() -> None:
    assert not any(state.alarm for seed in range(8) for state in followed(begun(), *calm(seed, 1000)))


def test_changed_images_are_told_with_where_it_began_until_they_are_as_before() -> None:
    quartiles, good = calm(0, 700)
    quartiles[300:400] += 2
    good[300:400:3] = False  # which more that stand out are put down to
    states = followed(begun(), quartiles, good)
    told = next(number for number, state in enumerate(states) if state.alarm)
    alarm = states[told].alarm
    assert alarm is not None
    assert (alarm.kind, alarm.told) == ("images changed", told)
    assert abs(alarm.first - 300) <= 5
    assert 300 < told < 320
    assert all(state.alarm == alarm for state in states[told:400])
    assert {state.usual for state in states[told:400]} == {states[told].usual}  # it is not taken for usual
    ended = next(number for number in range(400, 700) if states[number].alarm is None)
    assert ended < 460
    assert states[ended].changed.evidence == states[ended].more.evidence == 0
    assert not any(state.alarm for state in states[ended:])
    sentence = states[told].sentence
    assert sentence is not None
    assert sentence.startswith(f"the images have changed since the model was learned, from image {alarm.first + 1} on:")


def test_more_defects_are_told_from_changed_images() -> None:
    quartiles, good = calm(1, 600)
    good[400:] = np.random.default_rng(2).random(200) >= 0.4
    quartiles[~good] += 3  # defects are large
    states = followed(begun(), quartiles, good)
    last = states[-1]
    assert last.alarm is not None
    assert last.alarm.kind == "more defects"
    assert abs(last.alarm.first - 400) < 15
    assert last.alarm.told < 450
    assert last.recent_share == (~good[-50:]).mean()
    told = states[last.alarm.told]
    count = int((~good[last.alarm.told - 49 : last.alarm.told + 1]).sum())
    assert told.sentence == (
        f"more images than usual are anomalous or to check, from image {last.alarm.first + 1} on: "
        f"{count} of the last 50, usually {100 * told.usual_share:.1f} %"
    )


def test_more_defects_become_changed_images_when_that_explains_them() -> None:
    quartiles, good = calm(3, 300)
    good[100:] = False
    quartiles[150:] += 5
    kinds = [state.alarm and state.alarm.kind for state in followed(begun(), quartiles, good)]
    assert list(dict.fromkeys(kinds)) == [None, "more defects", "images changed"]


def test_when_most_stand_out_it_is_awaited_whether_images_have_changed() -> None:
    quartiles, good = calm(6, 240)
    good[100:200], good[200:] = True, False
    quartiles[200:] += 4
    states = followed(begun(), quartiles, good)
    alarm = next(state.alarm for state in states if state.alarm)
    assert (alarm.kind, alarm.first) == ("images changed", 200)
    assert 205 < alarm.told < 213  # six have to stand out before they count
    quartiles[200:] -= 4
    states = followed(begun(), quartiles, good)
    alarm = next(state.alarm for state in states if state.alarm)
    assert (alarm.kind, alarm.first) == ("more defects", 200)
    assert 220 <= alarm.told < 230


def test_what_is_kept_is_bounded_and_goes_on_from_json_as_if_never_stopped() -> None:
    quartiles, good = calm(4, 2500)
    quartiles[2400:] += 1.5
    states = followed(begun(), quartiles, good)
    text = json.dumps(states[1999].as_dict())
    assert len(text) < 40_000
    assert len(states[-1].usual) + len(states[-1].usual_others) == 1000
    back = Drift.from_dict(json.loads(text))
    assert back == states[1999]
    assert followed(back, quartiles[2000:], good[2000:]) == states[2000:]
    assert Drift.from_dict(json.loads(json.dumps(states[-1].as_dict()))) == states[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("usual", [1, 2, "3"]),
        ("usual", [2.0, 1.0] * 20),
        ("usual", [float("nan")] * 20),
        ("usual", None),
        ("usual_others", [0.0] * 910),
        ("usual_others", [True]),
        ("images", -1),
        ("recent", [1]),
        ("recent", []),
        ("changed", {"logs": [0.0, 0.0], "since": [0, 0]}),
        ("changed", {"logs": [0.0, 0.0, 1e300], "since": [0, 0, 0]}),
        ("more", {"logs": [0.0, 0.0, 0.0], "since": [0, 0, 9]}),
        ("alarm", {"kind": "fire", "first": 0, "told": 0}),
        ("alarm", {"kind": "images changed", "first": 1, "told": 0}),
        ("alarm", []),
    ],
)
def test_a_senseless_state(name: str, value: object) -> None:
    good = json.loads(json.dumps(begun().after(0.0, is_good=True).as_dict()))
    Drift.from_dict(good)
    with pytest.raises(InputError, match=r"this is no state of drift, as `Drift.as_dict` gives it"):
        Drift.from_dict({**good, name: value})


NOTHING_USUAL = {**begun().as_dict(), "usual": [], "usual_others": []}


@pytest.mark.parametrize("state", [None, [], "drift", {}, NOTHING_USUAL])
def test_no_state(state: object) -> None:
    with pytest.raises(InputError, match="begin anew"):
        Drift.from_dict(state)


def test_too_little_to_begin_with() -> None:
    with pytest.raises(InputError, match="there is no image that tells what is usual"):
        Drift.begun([float("inf")], [])
    with pytest.raises(InputError, match="`map_quartile` is nan"):
        begun().after(float("nan"), is_good=True)
    many = Drift.begun([float(n) for n in range(3600)], [float(n) for n in range(3600, 4000)])
    assert (many.usual[:2], len(many.usual), len(many.usual_others)) == ((0.0, 4.0), 900, 100)


def test_the_quartile_is_that_of_what_is_looked_at() -> None:
    anomaly_map = np.arange(64, dtype=np.float32).reshape(8, 8)
    assert map_quartile(anomaly_map) == pytest.approx(3)  # of 0, 4, 32 and 36, at 0.75 between the first two
    inside = anomaly_map >= 60
    assert map_quartile(anomaly_map, inside) == pytest.approx(60.75)


def test_a_detector_knows_what_is_usual(fitted: SoftPatch, tmp_path: Path) -> None:
    drift = fitted.drift()
    left_out = fitted.detector.left_out
    assert left_out is not None
    assert left_out.map_quartiles is not None
    quartiles = zip(left_out.map_quartiles.tolist(), left_out.image_scores.tolist(), strict=True)
    pairs = [(quartile, score > fitted.detector.check_threshold) for quartile, score in quartiles]
    assert drift.usual == tuple(sorted(quartile for quartile, stands_out in pairs if not stands_out))
    assert drift.usual_others == tuple(sorted(quartile for quartile, stands_out in pairs if stands_out))
    strict = fitted.detector.with_threshold(0.0).drift()
    assert strict.usual_share == 1
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    assert SoftPatch.load(path).drift() == drift
    older = replace(fitted.detector, left_out=replace(left_out, map_quartiles=None))
    save_detector(older, path)
    assert "left_out.map_quartiles" not in load_file(path)
    with pytest.raises(InputError, match="fit anew"):
        SoftPatch.load(path).drift()


def count(drift: Drift) -> int:
    return len(drift.usual) + len(drift.usual_others)


def test_added_and_removed_images_count_as_usual_or_no_longer(plate_folder: Path) -> None:
    detector = tiny_softpatch().fit(plate_folder / "train")
    assert count(detector.drift()) == 13
    detector.add(plate_folder / "test/good")
    assert count(detector.drift()) == 17
    detector.remove("*/000.png")
    assert count(detector.drift()) == 16


def test_left_out_scores_are_joined_and_replaced_place_by_place() -> None:
    scores = LeftOutScores(*(torch.tensor([1.0, 2.0, 3.0]) + n for n in (0, 10, 20)))
    new = LeftOutScores(*(torch.tensor([8.0, 9.0]) + n for n in (0, 10, 20)))
    replaced = scores.replaced(torch.tensor([2, 0]), new)
    assert replaced.image_scores.tolist() == [9, 2, 8]
    assert replaced.map_peaks.tolist() == [19, 12, 18]
    assert replaced.map_quartiles is not None
    assert replaced.map_quartiles.tolist() == [29, 22, 28]
    assert scores.joined(replace(new, map_quartiles=None)).map_quartiles is None


def row(number: int, quartile: float, verdict: str) -> dict[str, object]:
    score = {"good": 0.5, "check": 0.9, "anomalous": 2.0}[verdict]
    return {
        "path": f"{number:03d}.png",
        "image_score": score,
        "threshold": 1.0,
        "check_threshold": 0.8,
        "verdict": verdict,
        "map_quartile": quartile,
    }


def test_the_record_and_the_picture_of_a_run(tmp_path: Path) -> None:
    quartiles, good = calm(5, 400)
    quartiles[200:250] += 3
    rows = [row(n, q, "good" if g else "check") for n, (q, g) in enumerate(zip(quartiles, good, strict=True))]
    course = course_of(rows, begun())
    assert len(course.evidence) == 400
    (told,) = course.told
    write_drift(rows, begun(), tmp_path)
    record = json.loads((tmp_path / "drift.json").read_text())
    (alarm,) = record.pop("alarms")
    assert record["images"] == 400
    assert record["recent_share"] == pytest.approx((~good[-50:]).mean())
    assert (alarm["kind"], alarm["first"], alarm["ended"]) == ("images changed", told.alarm.first, told.ended)
    assert abs(alarm["first"] - 200) < 4
    assert alarm["first_path"] == f"{alarm['first']:03d}.png"
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.size == (1440, 864)
    (sentence,) = drift_in_words(tmp_path)
    assert sentence.startswith("the images have changed since the model was learned")
    assert sentence.endswith(f"(it begins at {alarm['first_path']}, and ended before image {alarm['ended'] + 1})")
    write_drift(rows[:100], begun(), tmp_path)
    assert drift_in_words(tmp_path) == ["no change is seen in the order of the 100 images"]


def test_the_course_of_a_part_goes_on_from_what_came_before(tmp_path: Path) -> None:
    quartiles, good = calm(5, 400)
    quartiles[200:250] += 3
    rows = [row(n, q, "good" if g else "check") for n, (q, g) in enumerate(zip(quartiles, good, strict=True))]
    states = followed(begun(), quartiles, good)
    whole, part = course_of(rows, begun()), course_of(rows[220:], states[219])
    assert states[219].alarm is not None
    assert part.evidence == whole.evidence[220:]
    assert (part.before, part.last) == (states[219], states[-1])
    assert [(each.alarm, each.ended) for each in part.told] == [(each.alarm, each.ended) for each in whole.told]
    draw_drift(rows[220:], part, tmp_path / "part.png")
    with Image.open(tmp_path / "part.png") as picture:
        assert picture.size == (1440, 864)


def test_a_picture_where_all_usual_images_stand_out(tmp_path: Path) -> None:
    drift = Drift.begun([], [1.0, 2.0])
    rows = [row(0, 1.5, "anomalous")]
    draw_drift(rows, course_of(rows, drift), tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 10_000


def test_what_becomes_of_alarms_is_told_once() -> None:
    quartiles, good = calm(3, 400)
    good[100:250] = False
    quartiles[150:250] += 5
    states = [begun(), *followed(begun(), quartiles, good)]
    changes = [after.change_since(before) for before, after in pairwise(states)]
    told = [(number, change) for number, change in enumerate(changes) if change]
    assert [(change.as_dict()["alarm"], change.as_dict()["ended"]) for _, change in told] == [
        ("more defects", None),
        ("images changed", "more defects"),
        (None, "images changed"),
    ]
    for number, change in told[:2]:
        assert change.alarm == states[number + 1].alarm
        assert change.sentence == states[number + 1].sentence
    assert told[2][1].sentence == "images look as usual again; the alarm has ended"
    assert told[1][1].ended == told[0][1].alarm


def test_predict_tells_where_the_light_changed(
    capsys: pytest.CaptureFixture[str], fitted: SoftPatch, tmp_path: Path
) -> None:
    model, images, out = tmp_path / "model.safetensors", tmp_path / "images", tmp_path / "out"
    fitted.save(model)
    images.mkdir()
    for number in range(50):
        pixels = plate(300 + number)
        pixels = pixels if number < 20 else (pixels * 0.5).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03d}.png")
    code, told, noted = run(capsys, "predict", model, images, "-o", out, "--drift", "--device", "cpu")
    assert code == 0
    assert "50 images" in told
    record = json.loads((out / "drift.json").read_text())
    assert record["alarms"][0]["kind"] == "images changed"
    assert abs(record["alarms"][0]["first"] - 20) <= 2
    assert "the images have changed since the model was learned" in " ".join(noted.split())
    assert (out / "drift.png").exists()
    listed = run(capsys, "predict", model, tmp_path, "--list")[1]
    assert "drift.png: result of an earlier run, passed over" in listed
    code, _, noted = run(capsys, "predict", model, images, "-o", out, "--device", "cpu")
    assert code == 0
    assert not (out / "drift.json").exists()
    assert not (out / "drift.png").exists()
    assert "changed since" not in noted


def test_predict_asked_for_drift_refuses_an_older_model_before_it_judges(
    capsys: pytest.CaptureFixture[str], fitted: SoftPatch, plate_folder: Path, tmp_path: Path
) -> None:
    assert fitted.detector.left_out is not None
    left_out = replace(fitted.detector.left_out, map_quartiles=None)
    save_detector(replace(fitted.detector, left_out=left_out), tmp_path / "model.safetensors")
    arguments = "predict", tmp_path / "model.safetensors", plate_folder / "test", "-o", tmp_path / "out", "--drift"
    code, _, err = run(capsys, *arguments, "--device", "cpu")
    assert code == 2
    assert "fit anew" in err
    assert not (tmp_path / "out/predictions.csv").exists()


def test_the_command_line_says_what_drift_writes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    assert "drift.png and drift.json" in " ".join(capsys.readouterr().out.split())
