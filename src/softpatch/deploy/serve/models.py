"""Detectors by name and version: loaded when first asked for, replaced when their files change, dropped when unused."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softpatch.deploy.serve.catalogue import Catalogue, ModelFile, Stamp, find_models
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.detector import Detector

Outcome = Literal["loaded", "failed"]
_LOOK_AGAIN = 1.0  # seconds, before files are looked at once more
_TRY_AGAIN = 10.0  # seconds, before a file that cannot be loaded is tried once more, unless it changes


@dataclass(frozen=True)
class _Loaded:
    stamp: Stamp
    detector: Detector


@dataclass(frozen=True)
class _Failed:
    stamp: Stamp
    until: float


class Models:
    """The models in files and folders, of which at most `keep` are in memory, those that were used last.

    `catalogue` and `find` may be called by any thread, `detector` by one alone. `on_load` is told of each file that was
    loaded or could not be, and why.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[Path], Detector],
        *,
        keep: int,
        on_load: Callable[[ModelFile, Outcome, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._load, self._keep, self._on_load, self._clock = paths, load, keep, on_load, clock
        self._lock = threading.Lock()
        self._catalogue: Catalogue = find_models(paths)
        self._looked_at = clock()
        self._loaded: OrderedDict[tuple[str, int], _Loaded] = OrderedDict()
        self._failed: dict[tuple[str, int], _Failed] = {}

    def catalogue(self) -> Catalogue:
        """The models that are there, as the files were at most a second ago."""
        with self._lock:
            if self._clock() - self._looked_at >= _LOOK_AGAIN:
                self._catalogue = find_models(self._paths)
                self._looked_at = self._clock()
            return self._catalogue

    def find(self, name: str | None, version: str | None = None) -> ModelFile:
        """The file of a model, of the highest version where none is named; the only model where none is named.

        Raises `RequestError` where there is none such, in words that list what there is.
        """
        catalogue = self.catalogue()
        names = ", ".join(catalogue) or "none"
        if name is None:
            if len(catalogue) != 1:
                raise RequestError(400, f"{len(catalogue)} models are served; ask for one of them: {names}")
            name = next(iter(catalogue))
        versions = catalogue.get(name)
        if versions is None:
            raise RequestError(404, f"there is no model {name[:100]!r}; there is {names}")
        if not version:
            return versions[max(versions)]
        if not (version.isascii() and version.isdecimal() and len(version) < 10 and int(version) in versions):
            has = ", ".join(map(str, versions))
            raise RequestError(404, f"model {name!r} has no version {version[:20]!r}; it has {has}")
        return versions[int(version)]

    def is_usable(self, file: ModelFile) -> bool:
        """Whether a model is loaded, or was not found broken."""
        return file.key in self._loaded or file.key not in self._failed

    def count_loaded(self) -> int:
        """How many models are in memory."""
        return len(self._loaded)

    def detector(self, file: ModelFile) -> Detector:
        """The detector in a file as it is now; the one before where the new file cannot be loaded.

        Raises `RequestError` where there is neither.
        """
        current, failed = self._loaded.get(file.key), self._failed.get(file.key)
        is_new = current is None or current.stamp != file.stamp
        is_given_up = failed is not None and failed.stamp == file.stamp and self._clock() < failed.until
        if is_new and not is_given_up:
            current = self._load_anew(file) or current
        if current is None:
            raise RequestError(
                503, f"model {file.name!r} cannot be loaded; the server's log says why", retry_after=int(_TRY_AGAIN)
            )
        self._loaded[file.key] = current
        self._loaded.move_to_end(file.key)
        catalogue = self._catalogue
        for name, version in list(self._loaded):
            is_gone = version not in catalogue.get(name, {})
            if is_gone or len(self._loaded) > self._keep:
                del self._loaded[name, version]
        return current.detector

    def _load_anew(self, file: ModelFile) -> _Loaded | None:
        if file.key not in self._loaded:  # room is made before, not after
            while len(self._loaded) >= self._keep:
                self._loaded.popitem(last=False)
        try:
            detector = self._load(file.path)
        except Exception as error:  # whatever is wrong with one file, others are served
            self._failed[file.key] = _Failed(file.stamp, self._clock() + _TRY_AGAIN)
            self._on_load(file, "failed", str(error) or type(error).__name__)
            return None
        self._failed.pop(file.key, None)
        self._on_load(file, "loaded", "")
        return _Loaded(file.stamp, detector)
