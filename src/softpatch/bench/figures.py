"""The paper's figures from rows: noise ratio and discard fraction against AUROC, and speed."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from softpatch.atomic import replacing
from softpatch.bench.methods import METHODS
from softpatch.bench.rows import Row, file_stem
from softpatch.bench.summary import METRICS

_SHOWN = {
    "patchcore": ("#000000", "s"),
    "upper-bound": ("#999999", "_"),
    "padim": ("#cc79a7", "x"),
    "softpatch-nearest": ("#56b4e9", "v"),
    "softpatch-gaussian": ("#009e73", "^"),
    "softpatch-lof": ("#e69f00", "D"),
    "softpatch+": ("#0072b2", "o"),
    "agreement": ("#d55e00", "*"),
    "cflow": ("#999999", "P"),
    "igd": ("#999999", "X"),
}
_OTHERS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000"), "ovsD^P*Xp<>h"
COLOURS = {name: colour for name, (colour, _) in _SHOWN.items()}
"""The colour of a method, the same in every figure: those of Okabe and Ito, which the colour-blind can tell apart."""


def draw_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write those figures that the rows have something for, and say which."""
    usable = list({row["task_key"]: row for row in rows if row.get("error") is None}.values())
    drawn = []
    for data, backbone in sorted({(row["data"], row["backbone"]) for row in usable}):
        chosen = [row for row in usable if (row["data"], row["backbone"]) == (data, backbone)]
        stem = file_stem(f"{data}-{backbone}")
        overlap = [row for row in chosen if row["protocol"] in ("overlap", "clean")]
        plain = [row for row in overlap if "discard_fraction" not in row]
        varied = [row for row in overlap if "discard_fraction" in row]
        if len({row["noise_ratio"] for row in plain}) > 1:
            path = folder / f"noise-ratio-{stem}.png"
            title = f"{data}, {backbone}, overlap"
            drawn.append(_draw_lines(plain, "noise_ratio", "method", "noise ratio", title, path))
        if len({row["discard_fraction"] for row in varied}) > 1:
            path = folder / f"discard-fraction-{stem}.png"
            title = f"softpatch+ on {data}, {backbone}, overlap"
            ours = [row for row in varied if row["method"] == "softpatch+"]
            drawn.append(_draw_lines(ours, "discard_fraction", "noise_ratio", "discard fraction", title, path))
    if usable:
        drawn.append(_draw_speed(usable, folder / "images-per-second.png"))
    return drawn


def shown_title(text: str) -> str:
    """Text of rows on one line of reasonable length, that matplotlib takes for no formula."""
    return " ".join(text.split())[:200].replace("$", r"\$")


def _draw_lines(rows: Sequence[Row], x: str, series: str, label: str, title: str, path: Path) -> Path:
    """Image and pixel AUROC against `x`, a line per value of `series`, error bars over seeds.

    Both have the same axes. Averages are over the categories that every point has.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    points = {(row[series], row[x]) for row in rows}
    has = {point: {row["category"] for row in rows if (row[series], row[x]) == point} for point in points}
    shared = set.intersection(*has.values())
    names = [m for m in METHODS if m in {row[series] for row in rows}] if series == "method" else None
    names = names or sorted({row[series] for row in rows})
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("image_auroc", "pixel_auroc"), strict=True):
        for number, name in enumerate(names):
            xs, ys, errors = _line([row for row in rows if row[series] == name], x, metric, shared)
            shown = name if series == "method" else f"noise {name:.0%}"
            colour, marker = _look(name, number)
            axis.errorbar(xs, ys, errors, marker=marker, markersize=7, capsize=2, color=colour, label=shown)
        axis.set(xlabel=label, ylabel=METRICS[metric], xticks=sorted({row[x] for row in rows}))
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.2f}")
        axis.tick_params(labelleft=True)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(names), 6))
    seeds = len({row["seed"] for row in rows})
    over = f"mean of {', '.join(sorted(shared))}; {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle(shown_title(f"{title}; {over}"))
    return _save(figure, path)


def _look(name: Any, number: int) -> tuple[str, str]:
    """Colour and marker of a line: those of a method, or others in turn."""
    colours, markers = _OTHERS
    return _SHOWN.get(name, (colours[number % len(colours)], markers[number % len(markers)]))


def _line(
    rows: Sequence[Row], x: str, metric: str, categories: set[str]
) -> tuple[list[float], list[float], list[float]]:
    usable = [row for row in rows if row["category"] in categories and row[metric] is not None]
    xs, ys, errors = sorted({row[x] for row in usable}), [], []
    for value in xs:
        here = [row for row in usable if row[x] == value]
        seeds = {row["seed"] for row in here}
        means = [mean(row[metric] for row in here if row["seed"] == seed) for seed in seeds]
        ys.append(mean(means))
        errors.append(stdev(means) if len(means) > 1 else 0.0)
    return xs, ys, errors


def _draw_speed(rows: Sequence[Row], path: Path) -> Path:
    """Images per second of each method and backbone, the mean over its rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    pairs = sorted({(row["backbone"], row["method"]) for row in rows}, key=lambda p: (p[0], list(METHODS).index(p[1])))
    speeds = [
        mean(row["images_per_second"] for row in rows if (row["backbone"], row["method"]) == pair) for pair in pairs
    ]
    figure, axis = plt.subplots(figsize=(8, 0.35 * len(pairs) + 1.2), layout="constrained")
    bars = axis.barh(
        [f"{method}, {backbone}" for backbone, method in pairs],
        speeds,
        color=[COLOURS.get(method, "#999999") for _, method in pairs],
    )
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.margins(x=0.1)
    axis.invert_yaxis()
    threads = f"{rows[0]['threads']} thread{'s' * (rows[0]['threads'] > 1)}"
    axis.set(xlabel=f"images per second, prediction, {rows[0]['machine']}, {threads}")
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)
    return path
