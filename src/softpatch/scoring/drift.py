"""Whether images have changed since a model was learned, or more of them are defective than usual, one after the other.

Two things are watched of every image: the lower quartile of its anomaly map, which a defect hardly moves and other
light, focus, position or product does; and whether it stands out, that is its verdict is other than "good". Both are
compared with what was usual: left-out training images, and the images that came since, as far as they gave no alarm.

While nothing changes any order of usual and new images is as likely as any other. The place of an image among them, and
whether it is one of those that stand out, can then be bet on at fair odds, and no bet wins much in the long run. Good
images are placed among usual good ones, so that large defects count for nothing; but where most of the last stand out,
every image is placed among all. A CUSUM of such bets exceeds 10,000 on average not sooner than after 10,000 images
(Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2022, chapter 8; Shin, Ramdas and Rinaldo,
E-detectors, 2023).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, log10
from typing import Any, Literal, get_args

from softpatch.errors import InputError

LEVEL = 4.0
"""The log10 of the evidence that gives an alarm: false ones come on average not sooner than after 10,000 images."""
RECENT = 50
"""So many of the last images are counted to say how many stand out."""
_MOST_USUAL = 1000  # ranks among more are hardly finer, and what was usual must not follow a slow change
_HIGHEST = LEVEL + 1  # beyond it evidence does not rise, so that it falls again in time
_ENDS = LEVEL - 1
_DOUBT = 0.5  # evidence of changed images at which more that stand out are not put down to defects
_LAST, _MOST = 10, 0.6  # of so many images at least this share
_PATIENCE = 20  # images, in which it shows whether most stand out since images have changed
_RANK_BETS = (2, 4, 16)  # densities c·u^(c-1) of an image's rank u in (0, 1), uniform while nothing changes
_ODDS_BETS = (2, 4, 8)  # how many times the odds rose of an image standing out
Kind = Literal["images changed", "more defects"]


@dataclass(frozen=True)
class Alarm:
    """What has changed, from which image on and after which it was told, by numbers from 0 on."""

    kind: Kind
    first: int
    told: int


@dataclass(frozen=True)
class Change:
    """What became of alarms at an image, in a `sentence`: the `alarm` that was told, and the one that has `ended`.

    Both are given where changed images explain more defects, which ends that alarm.
    """

    alarm: Alarm | None
    ended: Alarm | None
    sentence: str

    def as_dict(self) -> dict[str, str | None]:
        """The kinds of both, None where there is none, and the sentence."""
        told, ended = (None if each is None else each.kind for each in (self.alarm, self.ended))
        return {"alarm": told, "ended": ended, "sentence": self.sentence}


@dataclass(frozen=True)
class Cusum:
    """The winnings of several bets, each begun anew whenever nothing is left of it.

    `logs` (B,) are their log10, at most one above the level of an alarm, and `since` (B,) the image each began at.
    """

    logs: tuple[float, ...]
    since: tuple[int, ...]

    @classmethod
    def begun(cls, bets: int, image: int) -> "Cusum":
        """Nothing won yet, before so many bets on an image with this number."""
        return cls((0.0,) * bets, (image,) * bets)

    def after(self, odds: Iterable[float], image: int) -> "Cusum":
        """After the image with this number, on which each bet won so many times its stake."""
        logs, since = [], []
        for log, begun, won in zip(self.logs, self.since, odds, strict=True):
            logs.append(min(_HIGHEST, max(0.0, log + log10(won))))
            since.append(begun if logs[-1] else image + 1)
        return Cusum(tuple(logs), tuple(since))

    @property
    def evidence(self) -> float:
        """The log10 of the mean of the winnings, from 0 on."""
        return log10(sum(10**log for log in self.logs) / len(self.logs))

    @property
    def first(self) -> int:
        """The number of the image from which on the best bet has won."""
        return self.since[self.logs.index(max(self.logs))]


@dataclass(frozen=True)
class Drift:
    """What was usual, and the evidence so far that it is not any more: a value, of a size that is bounded.

    `usual` are map quartiles of good images, in order, and `usual_others` of those that stand out: 1,000 together at
    most. `images` were judged since, of which the last are `recent`, True where one stands out. `alarm` is the one that
    stands: it ends when its evidence has fallen to a tenth of what gives an alarm.
    """

    usual: tuple[float, ...]
    usual_others: tuple[float, ...]
    images: int
    changed: Cusum
    more: Cusum
    recent: tuple[bool, ...]
    alarm: Alarm | None

    @classmethod
    def begun(cls, good: Sequence[float], others: Sequence[float]) -> "Drift":
        """Before the first image, from the map quartiles of training images that are good, and of those that stand out.

        Raises `InputError` where none of them is finite.
        """
        usual = sorted((value, is_other) for is_other, values in enumerate((good, others)) for value in values)
        usual = [each for each in usual if isfinite(each[0])]
        if not usual:
            raise InputError("there is no image that tells what is usual; learn from more images")
        if len(usual) > _MOST_USUAL:
            usual = [usual[number * len(usual) // _MOST_USUAL] for number in range(_MOST_USUAL)]
        kept, kept_others = (tuple(value for value, is_other in usual if is_other == kind) for kind in (0, 1))
        return cls(kept, kept_others, 0, Cusum.begun(len(_RANK_BETS), 0), Cusum.begun(len(_ODDS_BETS), 0), (), None)

    def after(self, map_quartile: float, *, is_good: bool) -> "Drift":
        """After one more image: its map quartile, a finite number, and whether its verdict is "good"."""
        if not isfinite(map_quartile):
            raise InputError(f"`map_quartile` is {map_quartile!r}; it is a finite number")
        image = self.images
        changed = self.changed.after(self._rank_odds(map_quartile, is_good), image)
        standing_out, usual_images = len(self.usual_others), len(self.usual) + len(self.usual_others)
        more = self.more.after(standing_out_odds(standing_out, usual_images, is_good), image)
        recent = (*self.recent, not is_good)[-RECENT:]
        alarm = _alarm(self.alarm, changed, more, image, recent)
        if self.alarm is not None and alarm is None:
            changed, more = Cusum.begun(len(_RANK_BETS), image + 1), Cusum.begun(len(_ODDS_BETS), image + 1)
        usual, others = self.usual, self.usual_others
        if alarm is None and usual_images < _MOST_USUAL:
            usual, others = (_with(usual, map_quartile), others) if is_good else (usual, _with(others, map_quartile))
        return Drift(usual, others, image + 1, changed, more, recent, alarm)

    def _rank_odds(self, value: float, is_good: bool) -> list[float]:
        """What each bet on the rank of an image wins; nothing is bet on one that stands out, unless most do."""
        if _most(self.recent, _LAST):
            return rank_odds((self.usual, self.usual_others), value)
        return rank_odds((self.usual,), value) if is_good else [1.0] * len(_RANK_BETS)

    @property
    def usual_share(self) -> float:
        """The share of images that usually stand out, in [0, 1]."""
        return len(self.usual_others) / (len(self.usual) + len(self.usual_others))

    @property
    def recent_share(self) -> float:
        """The share of the last images, 50 at most, that stand out, in [0, 1]; 0 before the first."""
        return sum(self.recent) / max(1, len(self.recent))

    @property
    def sentence(self) -> str | None:
        """What the alarm that stands means, for a person, who counts images from 1; None where none stands."""
        if self.alarm is None:
            return None
        since = f"from image {self.alarm.first + 1} on"
        if self.alarm.kind == "images changed":
            return (
                f"the images have changed since the model was learned, {since}: as a whole they look less like the "
                "training images; look at light, focus, position and product"
            )
        count = f"{sum(self.recent)} of the last {len(self.recent)}, usually {100 * self.usual_share:.1f} %"
        return f"more images than usual are anomalous or to check, {since}: {count}"

    def change_since(self, before: "Drift") -> Change | None:
        """What became of alarms since the image before, whose drift is `before`; None where nothing did."""
        if self.alarm == before.alarm:
            return None
        if self.sentence is not None:
            return Change(self.alarm, before.alarm, self.sentence)
        is_changed = before.alarm is not None and before.alarm.kind == "images changed"
        now = "images look as usual again" if is_changed else "no more images than usual are anomalous or to check now"
        return Change(None, before.alarm, f"{now}; the alarm has ended")

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON: some 10 kB at most."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Drift":
        """What `as_dict` gave, back from JSON. Raises `InputError` for anything else."""
        try:
            return _checked(values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"this is no state of drift, as `Drift.as_dict` gives it ({error}); begin anew") from error


def rank_odds(usual: Sequence[Sequence[float]], value: float) -> list[float]:
    """What each bet on the rank of `value` among usual ones wins, which come as several sequences in order.

    Among equal ones the middle rank counts, which by Jensen's inequality makes no convex bet more than fair.
    """
    below = sum(bisect_left(each, value) for each in usual)
    not_above = sum(bisect_right(each, value) for each in usual)
    rank = (below + not_above + 1) / 2 / (sum(map(len, usual)) + 1)
    return [float(c * rank ** (c - 1)) for c in _RANK_BETS]


def standing_out_odds(standing_out: int, usual: int, is_good: bool) -> list[float]:
    """What each bet on an image standing out wins, given how many of the usual images and it do."""
    share = (standing_out + (not is_good)) / (usual + 1)
    return [(1 if is_good else times) / (1 + (times - 1) * share) for times in _ODDS_BETS]


def _alarm(before: Alarm | None, changed: Cusum, more: Cusum, image: int, recent: Sequence[bool]) -> Alarm | None:
    """The alarm that stands after an image. That images have changed explains that more of them stand out.

    Where most stand out since more do, it is awaited for a while whether images have changed.
    """
    since = image + 1 - more.first
    most_since = more.evidence > 0 and _most(recent, since)

    if before is not None and before.kind == "images changed":
        return before if changed.evidence > _ENDS else None
    if changed.evidence >= LEVEL:
        return Alarm("images changed", min(changed.first, more.first) if most_since else changed.first, image)
    if before is not None:
        return before if more.evidence > _ENDS else None
    if more.evidence >= LEVEL and changed.evidence < _DOUBT and not (most_since and since <= _PATIENCE):
        return Alarm("more defects", more.first, image)
    return None


def _most(recent: Sequence[bool], count: int) -> bool:
    """Whether most of the last so many images stand out."""
    return len(recent) >= count and sum(recent[-count:]) >= _MOST * count


def _with(values: tuple[float, ...], value: float) -> tuple[float, ...]:
    place = bisect_right(values, value)
    return (*values[:place], value, *values[place:])


def _checked(values: dict[str, Any]) -> Drift:
    usual, others = (tuple(_number(value, -inf, inf) for value in values[name]) for name in ("usual", "usual_others"))
    if not 1 <= len(usual) + len(others) <= _MOST_USUAL or any(list(each) != sorted(each) for each in (usual, others)):
        raise ValueError("`usual` and `usual_others` are not 1 to 1,000 numbers in order")
    images, recent, alarm = _whole(values["images"], 2**62), tuple(values["recent"]), values["alarm"]
    if len(recent) != min(images, RECENT) or not all(isinstance(each, bool) for each in recent):
        raise ValueError(f"`recent` are not the last {RECENT} images")
    if alarm is not None:
        if alarm["kind"] not in get_args(Kind):
            raise ValueError(f"`kind` is {alarm['kind']!r}")
        told = _whole(alarm["told"], images - 1)
        alarm = Alarm(alarm["kind"], _whole(alarm["first"], told), told)
    changed, more = (
        _checked_cusum(values[name], len(bets), images)
        for name, bets in (("changed", _RANK_BETS), ("more", _ODDS_BETS))
    )
    return Drift(usual, others, images, changed, more, recent, alarm)


def _checked_cusum(values: dict[str, Any], bets: int, images: int) -> Cusum:
    logs = tuple(_number(value, 0, _HIGHEST) for value in values["logs"])
    since = tuple(_whole(value, images) for value in values["since"])
    if len(logs) != bets or len(since) != bets:
        raise ValueError(f"evidence is not of {bets} bets")
    return Cusum(logs, since)


def _number(value: Any, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    if not lowest <= value <= highest:
        raise ValueError(f"{value!r} is not from {lowest} to {highest}")
    return float(value)


def _whole(value: Any, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise ValueError(f"{value!r} is no whole number from 0 to {highest}")
    return value
