"""From rows to tables: what each method reaches, per category and on the average, and beside the paper's numbers."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from statistics import mean, stdev

from softpatch.bench.methods import METHODS
from softpatch.bench.rows import Row
from softpatch.config import Settings
from softpatch.data.cells import table_cell
from softpatch.errors import InputError

METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1",
    "pixel_ap": "pixel AP",
    "aupro": "AUPRO",
}
"""F1 is the largest over all thresholds."""
SHOWN = {
    "image / pixel AUROC": ("image_auroc", "pixel_auroc"),
    "image AP / F1": ("image_ap", "image_f1_max"),
    "pixel AP / AUPRO": ("pixel_ap", "aupro"),
}
"""Which metrics stand in one cell."""
AVERAGE = "average"
CATEGORIES = {"mvtec": 15, "visa": 12, "btad": 3}
"""How many categories the paper's averages are over."""
LOF_TABLE = 8
"""The paper's table of several LOF-K."""


@dataclass(frozen=True)
class Cell:
    """The mean of a metric over seeds, its standard deviation, and over how many."""

    value: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (f" ± {self.deviation:.3f}" if self.seeds > 1 else "")


@dataclass(frozen=True)
class Table:
    """A table of one protocol, ratio, backbone and metric: cells by category, then `AVERAGE`, and by method.

    `settings` names those settings that differ from the methods' own, as text.
    """

    dataset: str
    protocol: str
    noise_ratio: float
    backbone: str
    settings: str
    metric: str
    cells: dict[tuple[str, str], Cell]

    @property
    def contamination(self) -> str:
        """Protocol and ratio, such as "overlap 10%"."""
        return self.protocol if self.protocol == "clean" else f"{self.protocol} {self.noise_ratio:.0%}"

    @property
    def categories(self) -> list[str]:
        """In alphabetical order, the average last."""
        return sorted({category for category, _ in self.cells}, key=lambda name: (name == AVERAGE, name))

    @property
    def shared_categories(self) -> list[str]:
        """Those that all methods have, which averages are over."""
        names = [category for category in self.categories if category != AVERAGE]
        return [name for name in names if all((name, method) in self.cells for method in self.methods)]

    @property
    def lof_neighbors(self) -> int:
        """LOF-K: a setting of its own or the default."""
        own = re.search(r"lof_neighbors=(\d+)", self.settings)
        return int(own[1]) if own else Settings.lof_neighbors

    @property
    def methods(self) -> list[str]:
        """In the order of the paper's tables."""
        present = {method for _, method in self.cells}
        return [method for method in METHODS if method in present]


def tables(rows: Iterable[Row]) -> list[Table]:
    """One table per dataset, protocol, ratio, backbone, settings and metric. Rows with an error are left out.

    The average is over the categories that all methods of the table have. Raises `InputError` without rows.
    """
    last = {row["task_key"]: row for row in rows if row.get("error") is None}
    if not last:
        raise InputError("there are no rows without an error; run some tasks first")
    groups: dict[tuple[str, str, float, str, str], list[Row]] = {}
    for row in last.values():
        key = (row["data"], row["protocol"], row["noise_ratio"], row["backbone"], own_settings(row))
        groups.setdefault(key, []).append(row)
    found = []
    for key, group in sorted(groups.items()):
        for metric in METRICS:
            cells = _cells(group, metric)
            if cells:
                found.append(Table(*key, metric, cells))
    return found


def own_settings(row: Row) -> str:
    """The settings of a row that differ from its method's own, as "name=value, ..."."""
    from softpatch.bench.task import SETTINGS

    return ", ".join(f"{name}={row[name]}" for name in SETTINGS if name in row)


def _cells(rows: Sequence[Row], metric: str) -> dict[tuple[str, str], Cell]:
    values: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row.get(metric) is not None:
            values.setdefault((row["category"], row["method"]), {})[row["seed"]] = row[metric]
    cells = {place: _cell(list(by_seed.values())) for place, by_seed in values.items()}
    methods = {method for _, method in values}
    shared = [c for c in {category for category, _ in values} if all((c, method) in values for method in methods)]
    for method in methods if len(shared) > 1 else ():
        seeds = set.intersection(*(set(values[category, method]) for category in shared))
        averages = [mean(values[category, method][seed] for category in shared) for seed in sorted(seeds)]
        if averages:
            cells[AVERAGE, method] = _cell(averages)
    return cells


def _cell(values: list[float]) -> Cell:
    return Cell(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def as_markdown(found: Iterable[Table]) -> str:
    """Per dataset, backbone and settings, and per category, a table for each of `SHOWN` that has cells: a line per
    method, a column per contamination, with the number of seeds."""
    groups: dict[tuple[str, str, str], list[Table]] = {}
    for table in found:
        groups.setdefault((table.dataset, table.backbone, table.settings), []).append(table)
    parts = []
    for (dataset, backbone, settings), group in groups.items():
        categories = {category: None for table in group for category in table.categories if category != AVERAGE}
        for category in (*sorted(categories), *([AVERAGE] if len(categories) > 1 else [])):
            title = ", ".join(part for part in (dataset, category, backbone, settings) if part)
            shown = [_of_category(group, category, head, metrics) for head, metrics in SHOWN.items()]
            parts += [f"**{_plain(title)}**", *(text for text in shown if text)]
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text of a row on one line, that no Markdown takes for a table, a link or HTML."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(text.split()))


def _of_category(group: Sequence[Table], category: str, head: str, metrics: tuple[str, ...]) -> str:
    """A line per method, a column per contamination, in each cell the metrics; nothing where no cell has one."""
    cells = {
        (method, table.contamination, table.metric): cell
        for table in group
        for (of, method), cell in table.cells.items()
        if of == category and table.metric in metrics
    }
    if not cells:
        return ""
    columns = list(dict.fromkeys(table.contamination for table in group))
    heads = [
        _with_seeds(column, {cell.seeds for (_, of, _), cell in cells.items() if of == column}) for column in columns
    ]
    lines = [f"| {head} | {' | '.join(heads)} |", "|" + "---|" * (1 + len(columns))]
    for method in METHODS:
        rows = [[cells.get((method, column, metric)) for metric in metrics] for column in columns]
        if any(cell for row in rows for cell in row):
            texts = [" / ".join(str(cell or "-") for cell in row) for row in rows]
            lines.append(f"| {method} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _with_seeds(column: str, seeds: set[int]) -> str:
    """A column's heading, and over how many seeds its cells are."""
    if not seeds:
        return column
    least, most = min(seeds), max(seeds)
    count = f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"
    return f"{column}, {count}"


def as_csv(found: Iterable[Table]) -> str:
    """All tables in one, a line per cell."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    names = ("dataset", "protocol", "noise_ratio", "backbone", "settings", "metric")
    writer.writerow([*names, "category", "method", "value", "deviation", "seeds"])
    for table in found:
        for category in table.categories:
            for method in table.methods:
                cell = table.cells.get((category, method))
                if cell:
                    place = [getattr(table, name) for name in names]
                    figures = [f"{cell.value:.5f}", f"{cell.deviation:.5f}", cell.seeds]
                    writer.writerow([table_cell(value) for value in (*place, category, method, *figures)])
    return text.getvalue()


# --- beside the paper ---


@dataclass(frozen=True)
class PaperNumber:
    """A number of the paper: where it stands, what it is of, and its value."""

    table: int
    dataset: str
    category: str
    protocol: str
    noise_ratio: float
    method: str
    lof_neighbors: int
    metric: str
    value: float


def paper_numbers() -> list[PaperNumber]:
    """Every number of the paper's tables 1 to 10."""
    text = files("softpatch.bench").joinpath("paper.csv").read_text(encoding="utf-8")
    return [
        PaperNumber(
            int(row["table"]),
            row["dataset"],
            row["category"],
            row["protocol"],
            float(row["noise_ratio"]),
            row["method"],
            int(row["lof_neighbors"] or Settings.lof_neighbors),
            row["metric"],
            float(row["value"]),
        )
        for row in csv.DictReader(StringIO(text))
    ]


def beside_paper(found: Iterable[Table]) -> str:
    """Markdown: for every table of the paper that we have numbers of, ours, the paper's, and the difference.

    An average over some of the paper's categories says over how many, and is not compared.
    """
    numbers, tables = paper_numbers(), list(found)
    parts = []
    for name in sorted({number.table for number in numbers}):
        lines = [
            _beside(number, table, cell)
            for number in numbers
            if number.table == name
            for table in tables
            if _is_of(number, table)
            for cell in [table.cells.get((number.category, number.method))]
            if cell
        ]
        if lines:
            head = "| | category | method | metric | measured with | ours | paper | difference |\n|" + "---|" * 8
            parts.append(f"**Table {name} of the paper**\n\n{head}\n" + "\n".join(lines))
    return "\n\n".join(parts) or "None of the paper's numbers is of a category, protocol and method that was run."


def _is_of(number: PaperNumber, table: Table) -> bool:
    """Whether a number of the paper can stand in a table of ours."""
    dataset = table.dataset.rstrip("/").rsplit("/", 1)[-1].split("_")[0].lower()
    ours = (dataset, table.protocol, table.noise_ratio, table.metric, table.lof_neighbors)
    return ours == (number.dataset, number.protocol, number.noise_ratio, number.metric, number.lof_neighbors)


def _beside(number: PaperNumber, table: Table, cell: Cell) -> str:
    """A line of `beside_paper`."""
    compared, category, method = f"{cell.value - number.value:+.3f}", number.category, number.method
    if category == AVERAGE and len(table.shared_categories) < CATEGORIES[number.dataset]:
        compared = "-"
        category = f"average of {len(table.shared_categories)} of {CATEGORIES[number.dataset]}"
    if number.table == LOF_TABLE:
        method = f"{method}, K = {number.lof_neighbors}"
    where = _plain(f"{table.backbone}, {table.settings}" if table.settings else table.backbone)
    what = f"{number.protocol} {number.noise_ratio:.0%} | {category} | {method} | {METRICS[number.metric]}"
    return f"| {what} | {where} | {cell} | {number.value:.3f} | {compared} |"
