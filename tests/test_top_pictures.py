"""The pictures that are kept while images are judged: the highest, in bounded room, whatever the order."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softpatch.data.framing import Framing
from softpatch.results import Prediction
from softpatch.review.top_pictures import Picture, TopPictures, picture_of

JPEG = "data:image/jpeg;base64,"


def picture(name: str) -> Picture:
    return Picture(JPEG + name, JPEG + name, [[0, 0, 1, 1, 1, 1.5]], 1)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 5))
def test_the_highest_are_kept_in_any_order(tmp_path_factory, order: list[int], most: int) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    kept = TopPictures(folder, most)
    for number in order:
        kept.offer(number // 2, f"{number:02d}", lambda number=number: picture(str(number)))
        assert len(list(folder.iterdir())) <= most
    assert list(kept.pictures()) == [f"{number:02d}" for number in range(11, 11 - most, -1)]
    assert kept.pictures()["11"] == picture("11")


def test_what_does_not_rank_high_enough_is_not_drawn(tmp_path: Path) -> None:
    kept = TopPictures(tmp_path, 1)
    kept.offer(2.0, "a", lambda: picture("a"))
    kept.offer(1.0, "b", lambda: pytest.fail("drawn"))
    kept.offer(2.0, "a", lambda: pytest.fail("drawn twice"))
    assert list(kept.pictures()) == ["a"]


def test_pictures_are_found_again(tmp_path: Path) -> None:
    before = TopPictures(tmp_path, 2)
    for rank, path in enumerate("abcd"):
        before.offer(rank, path, lambda path=path: picture(path))
    after = TopPictures(tmp_path, 2)
    for rank, path in enumerate("abcd"):
        after.find_again(rank, path)
    assert after.pictures() == before.pictures()
    after.offer(9, "e", lambda: picture("e"))
    assert list(after.pictures()) == ["e", "d"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        json.dumps({**vars(picture("a")), "image": "https://example.org/a.jpg"}),
        json.dumps({**vars(picture("a")), "heat": 3}),
        json.dumps({**vars(picture("a")), "regions": [["<b>"]]}),
        json.dumps({**vars(picture("a")), "region_count": None}),
    ],
)
def test_a_broken_file_is_no_picture(tmp_path: Path, content: str) -> None:
    TopPictures(tmp_path, 2).offer(1, "a", lambda: picture("a"))
    next(tmp_path.iterdir()).write_text(content)
    kept = TopPictures(tmp_path, 2)
    kept.find_again(1, "a")
    assert kept.pictures() == {}
    kept.offer(1, "a", lambda: picture("new"))
    assert kept.pictures() == {"a": picture("new")}


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.removeprefix(JPEG)))), int)


def test_a_picture_shows_the_image_its_heat_map_and_the_regions() -> None:
    anomaly_map = np.full((64, 64), 0.1, np.float32)
    anomaly_map[20:40, 8:24] = 3.0
    anomaly_map[50:58, 50:58] = 2.5
    answer = Prediction(
        "a.png", 3.0, 1.0, 0.9, 16.0, 30.0, 64, 64, anomaly_map, 2.0, False, 0.0, Framing.square(64, 64)
    )
    found = picture_of(torch.full((3, 64, 64), 0.5), answer)
    image, heat = decoded(found.image), decoded(found.heat)
    assert image.shape == heat.shape == (64, 64, 3)
    assert (image == 128).all()
    changed = np.abs(image - heat).max(axis=2)
    assert changed[22:38, 10:22].min() > 30
    assert changed[:12].max() < 5
    assert found.regions == [[8, 20, 24, 40, 320, 3.0], [50, 50, 58, 58, 64, 2.5]]
    assert found.region_count == 2


@pytest.mark.parametrize(("width", "height", "size"), [(3000, 40, (240, 3)), (1, 900, (1, 240)), (100, 50, (100, 50))])
def test_pictures_are_small(width: int, height: int, size: tuple[int, int]) -> None:
    flat = np.full((56, 56), 2.0, np.float32)
    answer = Prediction("a.png", 2.0, 1.0, 0.9, 0.0, 0.0, width, height, flat, 1.0, False, 0.0, Framing.square(64, 56))
    found = picture_of(torch.full((3, height, width), 0.25), answer)
    image = decoded(found.image)
    assert image.shape == (*size[::-1], 3)
    assert np.abs(image - 64).max() <= 2
