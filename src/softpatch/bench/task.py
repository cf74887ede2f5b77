"""A benchmark task: one validated record that says all there is to run, and lists of them in a TOML file.

A list file has tables `[[tasks]]`, and `[defaults]` that all of them begin with. Where a field is given several values
in a list, there is a task for every combination:

    [defaults]
    data = "mvtec_ad"
    protocol = "overlap"
    [[tasks]]
    category = ["bottle", "screw"]
    noise_ratio = [0.1, 0.4]
    method = ["patchcore", "softpatch+"]
    seed = [0, 1, 2]
    coreset_ratio = 0.01
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import as_file, files
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from softpatch.bench.methods import ASKED, BUDGETS, METHODS
from softpatch.config import LAYOUTS, PROTOCOLS, Settings, one_of, preset_settings
from softpatch.errors import InputError

_MOST_TASKS = 100_000
_LISTS = {"discriminators", "layers"}  # settings whose value is a list itself


@dataclass(frozen=True)
class Task:
    """A method, run on a category of a dataset whose training images were contaminated.

    `data` is the folder of the dataset or of the category, seen from where the benchmark is run. `settings` are those
    of `Settings` that differ from the method's own, without backbone, weights and seed, which are the task's. `budget`
    is for methods that train a network: "paper", or "small" for what a CPU can do. Of so many training images a person
    who knows the truth `answers` whether they are anomalous, `asked` in the order of an audit's page or at random; this
    is for methods of the PatchCore family.
    """

    data: str
    category: str
    method: str
    protocol: str = "overlap"
    noise_ratio: float = 0.1
    seed: int = 0
    backbone: str = Settings.backbone
    weights: str = Settings.weights
    layout: str = "auto"
    budget: str = "paper"
    answers: int = 0
    asked: str = "page"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        one_of("protocol", self.protocol, PROTOCOLS)
        one_of("layout", self.layout, ("auto", *LAYOUTS))
        one_of("budget", self.budget, BUDGETS)
        one_of("asked", self.asked, ASKED)
        if self.answers < 0 or (self.answers and METHODS[self.method].run != "patches"):
            raise InputError(
                f"`answers` is {self.answers} for the method {self.method!r}; it is 0 or more, and 0 where a method "
                "cannot use them"
            )
        if (self.protocol == "clean") != (self.noise_ratio == 0):
            raise InputError(
                f"`noise_ratio` is {self.noise_ratio} in the protocol {self.protocol!r}; it is 0 in 'clean' alone"
            )
        if not 0 <= self.noise_ratio <= 1:
            raise InputError(f"`noise_ratio` is {self.noise_ratio}; it lies between 0 and 1")
        settings = self.detector_settings()
        for name in ("tile", "align", "channels"):
            if getattr(settings, name) not in (None, "none"):
                raise InputError(f"a benchmark sees images as the papers do, squeezed as they lie; leave out `{name}`")

    def detector_settings(self) -> Settings:
        """All settings: the method's, and what differs from them."""
        method = METHODS[self.method]
        own = {"backbone": self.backbone, "weights": self.weights, "seed": self.seed}
        return preset_settings(method.preset, {**method.overrides, **self.settings, **own})

    def as_row(self) -> dict[str, Any]:
        """One flat record, ready for JSON, that tells this task from any other."""
        unused = ("settings",) if self.answers else ("settings", "answers", "asked")
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in unused}
        return {**values, **{name: _plain(self.settings[name]) for name in sorted(self.settings)}}


FIELDS = tuple(each.name for each in fields(Task) if each.name != "settings")
SETTINGS = tuple(each.name for each in fields(Settings) if each.name not in FIELDS)


def task_of(values: Mapping[str, Any]) -> Task:
    """Build a task from one flat record, such as `Task.as_row` gives.

    Without `category`, `data` is the folder of a category, or of labelled images, itself. Raises `InputError` for a
    name that is no field and no setting, for a value that is none of those possible, and where `data` or `method` is
    missing.
    """
    for name in values:
        if name not in FIELDS + SETTINGS:
            raise InputError(f"a task has no {name!r}; it has {', '.join(FIELDS + SETTINGS)}")
    own = {name: values[name] for name in FIELDS if name in values}
    if "category" not in own and isinstance(own.get("data"), str) and Path(own["data"]).name:
        own["category"] = Path(own["data"]).name
    for name in ("data", "category", "method"):
        if name not in own:
            raise InputError(f"a task needs `{name}`, which is not given")
    for name, value in own.items():
        expected = type(getattr(Task, name, ""))
        if isinstance(value, bool) or not isinstance(value, (int, float) if expected is float else expected):
            raise InputError(f"`{name}` is {value!r}; it must be {expected.__name__}")
    return Task(**own, settings={name: value for name, value in values.items() if name in SETTINGS})


def read_tasks(path: Path) -> list[Task]:
    """All tasks of a list file, each once, in order; where there is no such file, of the shipped list of that name.

    Raises `InputError` for a file that cannot be read, is no TOML, or holds no valid tasks.
    """
    shipped = files("softpatch.bench").joinpath("tasks")
    names = sorted(Path(each.name).stem for each in shipped.iterdir())
    if not path.exists() and path.name.removesuffix(".toml") in names and str(path) == path.name:
        with as_file(shipped.joinpath(f"{path.name.removesuffix('.toml')}.toml")) as file:
            return read_tasks(file)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no task list {path}; those that come along are {', '.join(names)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the task list {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits is no TOMLDecodeError
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"the task list {path} is no TOML: {reason}") from error
    for name in content:
        if name not in ("defaults", "tasks"):
            raise InputError(f"the task list {path} has a part {name!r}; its parts are [defaults] and [[tasks]]")
    entries = content.get("tasks", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"the task list {path} has no [[tasks]]")
    defaults = content.get("defaults", {})
    if not isinstance(defaults, dict):
        raise InputError(f"the task list {path} has defaults {str(defaults)[:40]!r}; [defaults] is a table")
    found: dict[str, Task] = {}
    for number, entry in enumerate(entries, 1):
        try:
            for values in combinations({**defaults, **entry}):
                task = task_of(values)
                found.setdefault(repr(task.as_row()), task)
        except InputError as error:
            problem = str(error).replace("`", "")  # a field of the list, not an option
            raise InputError(f"{path}, task {number}: {problem}") from error
    return list(found.values())


def combinations(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record for every combination of the values that are lists; protocol "clean" is taken for a ratio of 0."""
    choices = [value if _is_choice(name, value) else [value] for name, value in entry.items()]
    empty = next((name for name, choice in zip(entry, choices, strict=True) if not choice), None)
    if empty:
        raise InputError(f"`{empty}` is an empty list, which makes no task; give it a value")
    if prod(len(choice) for choice in choices) > _MOST_TASKS:
        raise InputError(f"the lists of values make more than {_MOST_TASKS:,} tasks; divide them among several files")
    records = [dict(zip(entry, values, strict=True)) for values in product(*choices)]
    return [{**record, "protocol": "clean"} if record.get("noise_ratio") == 0 else record for record in records]


def _is_choice(name: str, value: Any) -> bool:
    return isinstance(value, list) and (name not in _LISTS or any(isinstance(each, list) for each in value))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
