"""The numbers of the paper's tables: all there, each of them once, and at one with the averages the paper prints."""

import csv
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import pytest

PAPER = Path(__file__).parent.parent / "src" / "softpatch" / "bench" / "paper.csv"
HEADER = [
    *("table", "dataset", "category", "protocol", "noise_ratio", "method"),
    *("lof_neighbors", "discard_fraction", "metric", "value", "deviation"),
]
KEY = HEADER[:-2]
METHODS = {
    *("padim", "cflow", "igd", "patchcore", "upper-bound"),
    *("softpatch-nearest", "softpatch-gaussian", "softpatch-lof", "softpatch+"),
    *("fusion-nearest-gaussian", "fusion-nearest-lof", "fusion-nearest-gaussian-lof"),
    "image-denoising-lof",
}
CATEGORIES = {"mvtec": 15, "visa": 12, "btad": 3}
COUNTS = {
    1: 2 * 16 * 9,  # settings, categories with their average, methods
    2: 2 * 16 * 9,
    3: 2 * 13 * 9,
    4: 2 * 13 * 9,
    5: 4 * 9,  # categories with their average, methods
    6: 4 * 9,
    7: 7 * 4 * 2,  # choices of discriminators, noise ratios, metrics
    8: 7 * 2,  # numbers of neighbours, metrics
    9: 4 * 4 * 2,  # manners of denoising, noise ratios, metrics
    10: 3 * 4 * 2,  # methods, noise ratios, metrics
}
DEVIATIONS = {7: 7 * 4 * 2, 10: 3 * 4 * 2}  # each number of these two tables has one

# An average and its rows are each rounded to three digits, so their mean may be this far from it.
ROUNDING = 0.001 + 1e-9
# The paper prints 0.986. Its rows give 0.9814, but 0.9856 if bottle, printed as 0.937, were 1.000.
LOOSE = 0.006
EXCEPTIONS = {("1", "no-overlap", "softpatch-lof", "image_auroc")}


def read() -> tuple[list[str], list[dict[str, str]]]:
    with PAPER.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
        return list(reader.fieldnames or []), rows


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return read()[1]


def test_header() -> None:
    assert read()[0] == HEADER


def test_every_row_parses(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert list(row) == HEADER, row
        assert None not in row.values(), row
        assert all(cell == cell.strip() for cell in row.values()), row
        assert int(row["table"]) in COUNTS, row
        assert row["dataset"] in CATEGORIES, row
        assert row["category"], row
        assert row["protocol"] in {"clean", "no-overlap", "overlap"}, row
        assert 0 <= float(row["noise_ratio"]) <= 0.4, row
        assert (float(row["noise_ratio"]) == 0) == (row["protocol"] == "clean"), row
        assert row["method"] in METHODS, row
        assert (row["lof_neighbors"] != "") == (row["table"] == "8"), row
        assert row["lof_neighbors"] == "" or int(row["lof_neighbors"]) in range(3, 10), row
        assert row["discard_fraction"] == "", row
        assert row["metric"] in {"image_auroc", "pixel_auroc"}, row
        assert 0 <= float(row["value"]) <= 1, row
        assert row["deviation"] == "" or 0 <= float(row["deviation"]) < 0.01, row


def test_no_number_twice(rows: list[dict[str, str]]) -> None:
    keys = Counter(tuple(row[column] for column in KEY) for row in rows)
    assert [key for key, count in keys.items() if count > 1] == []


def test_all_tables_whole(rows: list[dict[str, str]]) -> None:
    assert Counter(int(row["table"]) for row in rows) == COUNTS
    assert Counter(int(row["table"]) for row in rows if row["deviation"]) == DEVIATIONS


def test_averages(rows: list[dict[str, str]]) -> None:
    averages: dict[tuple[str, ...], float] = {}
    categories: dict[tuple[str, ...], list[float]] = defaultdict(list)
    datasets: dict[tuple[str, ...], str] = {}
    for row in rows:
        if int(row["table"]) > 6:  # the later tables hold averages only
            assert row["category"] == "average", row
            continue
        key = (row["table"], row["protocol"], row["method"], row["metric"])
        datasets[key] = row["dataset"]
        if row["category"] == "average":
            averages[key] = float(row["value"])
        else:
            categories[key].append(float(row["value"]))

    assert set(averages) == set(categories)
    assert {key: len(values) for key, values in categories.items()} == {
        key: CATEGORIES[dataset] for key, dataset in datasets.items()
    }
    gaps = {key: abs(averages[key] - mean(values)) for key, values in categories.items()}
    assert {key for key, gap in gaps.items() if gap > ROUNDING} == EXCEPTIONS
    assert max(gaps[key] for key in EXCEPTIONS) <= LOOSE
