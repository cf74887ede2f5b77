"""Whether the images that a model is asked about have changed, in the order in which they are judged."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from softpatch.deploy.serve.batching import Judged
from softpatch.deploy.serve.catalogue import Catalogue, ModelFile, Stamp
from softpatch.deploy.serve.log import log
from softpatch.errors import InputError
from softpatch.results import Prediction
from softpatch.scoring.drift import Change, Drift

Key = tuple[str, int]
"""The name and the version of a model."""


class Drifts:
    """The drift of each model and version since its file was first loaded, in memory alone.

    `loaded` and `follow` are called by the thread that judges, `current` by any. `catalogue` gives the models that are
    there. Alarms are told in the log.
    """

    def __init__(self, catalogue: Callable[[], Catalogue]) -> None:
        self._catalogue = catalogue
        self._stamps: dict[Key, Stamp] = {}
        self._drifts: dict[Key, Drift | None] = {}  # None where the model does not know what is usual

    def loaded(self, file: ModelFile) -> None:
        """Note that a model file was loaded: another file begins anew, and those that are gone are forgotten."""
        there = {each.key for versions in self._catalogue().values() for each in versions.values()}
        obsolete = self._stamps.keys() - there
        if self._stamps.get(file.key) != file.stamp:
            obsolete.add(file.key)
        for key in obsolete:
            drift = self._drifts.pop(key, None)
            self._stamps.pop(key, None)
            if drift is not None and drift.alarm is not None:
                ended = Change(None, drift.alarm, "the model file was replaced or removed; the test begins anew")
                log("drift", model=key[0], version=key[1], **ended.as_dict())
        self._stamps[file.key] = file.stamp

    def follow(self, file: ModelFile, judged: Sequence[Judged]) -> None:
        """Go on with images that were judged, in order, by the thresholds of the model; those without an answer do not
        count."""
        predictions = [each.answer for each in judged if isinstance(each.answer, Prediction)]
        if not predictions:
            return
        if file.key not in self._drifts:
            self._drifts[file.key] = _usual(file, judged[0])
        drift = self._drifts[file.key]
        for prediction in predictions:
            if drift is None or not isfinite(prediction.map_quartile):
                continue
            before, drift = drift, drift.after(prediction.map_quartile, is_good=prediction.verdict == "good")
            change = drift.change_since(before)
            if change is not None:
                log("drift", model=file.name, version=file.version, **change.as_dict())
        self._drifts[file.key] = drift

    def current(self) -> Mapping[Key, Drift]:
        """The drift of each model that is there, has judged an image that counts, and knows what is usual."""
        catalogue, drifts = self._catalogue(), self._drifts.copy()
        return {key: drift for key, drift in drifts.items() if drift and key[1] in catalogue.get(key[0], {})}


def _usual(file: ModelFile, judged: Judged) -> Drift | None:
    try:
        return judged.detector.drift()
    except InputError as error:
        log("drift", model=file.name, version=file.version, sentence=f"whether images change is not told: {error}")
        return None
