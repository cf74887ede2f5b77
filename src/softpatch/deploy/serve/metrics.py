"""What Prometheus reads at `/metrics`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from softpatch.results import Prediction
from softpatch.scoring.drift import Drift, Kind

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_THRESHOLDS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
_OF_DRIFT: tuple[tuple[str, str, Callable[[Drift], float]], ...] = (
    (
        "softpatch_evidence_images_changed",
        "Evidence that images have changed, log10, alarm from 4",
        lambda drift: drift.changed.evidence,
    ),
    (
        "softpatch_evidence_more_defects",
        "Evidence of more defects than usual, log10, alarm from 4",
        lambda drift: drift.more.evidence,
    ),
    (
        "softpatch_recent_share_standing_out",
        "Share of the last 50 images that are not good",
        lambda drift: drift.recent_share,
    ),
)


@dataclass(frozen=True)
class Metrics:
    """Counters and histograms of one server, in a registry of their own. Labels are of closed sets: routes as they are
    declared, and models that are there."""

    registry: CollectorRegistry
    requests: Counter
    seconds: Histogram
    batches: Histogram
    verdicts: Counter
    scores: Histogram
    loads: Counter

    def note_prediction(self, model: str, prediction: Prediction) -> None:
        """Count a verdict and its score, in thresholds."""
        self.verdicts.labels(model, prediction.verdict).inc()
        self.scores.labels(model).observe(prediction.margin)

    def text(self) -> bytes:
        """All of them in the text format."""
        return generate_latest(self.registry)


class _DriftCollector(Collector):
    """Gauges of the drift of each model that is there when they are read; those of another would stay for ever."""

    def __init__(self, drifts: Callable[[], Mapping[tuple[str, int], Drift]]) -> None:
        self._drifts = drifts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        drifts = self._drifts()
        for name, text, value in _OF_DRIFT:
            family = GaugeMetricFamily(name, text, labels=["model", "version"])
            for (model, version), drift in drifts.items():
                family.add_metric([model, str(version)], value(drift))
            yield family
        alarms = GaugeMetricFamily(
            "softpatch_alarm", "Whether an alarm stands, by what it says", labels=["model", "version", "kind"]
        )
        for (model, version), drift in drifts.items():
            for kind in get_args(Kind):
                stands = drift.alarm is not None and drift.alarm.kind == kind
                alarms.add_metric([model, str(version), kind], float(stands))
        yield alarms


def make_metrics(
    waiting: Callable[[], int],
    loaded: Callable[[], int],
    in_flight: Callable[[], int],
    drifts: Callable[[], Mapping[tuple[str, int], Drift]],
) -> Metrics:
    """Metrics that ask what is waiting, loaded, at work and changed when they are read."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_DriftCollector(drifts))
    for name, text, ask in (
        ("softpatch_waiting_images", "Images that wait to be judged", waiting),
        ("softpatch_loaded_models", "Models in memory", loaded),
        ("softpatch_requests_in_flight", "Requests for a judgement that are at work", in_flight),
    ):
        Gauge(name, text, registry=registry).set_function(ask)
    return Metrics(
        registry,
        requests=Counter("softpatch_requests", "Requests", ["route", "status"], registry=registry),
        seconds=Histogram(
            "softpatch_request_seconds", "Time from request to answer", ["route"], buckets=_SECONDS, registry=registry
        ),
        batches=Histogram("softpatch_batch_images", "Images judged together", buckets=_IMAGES, registry=registry),
        verdicts=Counter("softpatch_verdicts", "Images by verdict", ["model", "verdict"], registry=registry),
        scores=Histogram(
            "softpatch_score_ratio",
            "Image scores, as shares of the threshold",
            ["model"],
            buckets=_THRESHOLDS,
            registry=registry,
        ),
        loads=Counter(
            "softpatch_model_loads", "Model files read: loaded or failed", ["model", "outcome"], registry=registry
        ),
    )
