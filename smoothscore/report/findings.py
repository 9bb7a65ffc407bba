"""What an audit finds, as records that go to a file and back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from smoothscore.functional.intervals import wilson_interval


@dataclass(frozen=True)
class Options:
    """What an audit depends on besides the images.

    Attributes:
        quantile: share of the samples that the first stage keeps.
        neighbors: k of the score.
        flips: compare with mirrored training images too.
        margin: of the second stage.
        without: how many of the most-copied training images the second count leaves out.
    """

    quantile: float = 0.05
    neighbors: int = 50
    flips: bool = False
    margin: float = 0.5
    without: int = 3


@dataclass(frozen=True)
class Pair:
    """A candidate beside the training images that it may be a copy of.

    Attributes:
        sample: its row.
        sample_name: its file, or its row.
        train: row of its nearest training image, the lowest of equal ones.
        train_name: its file, or its row.
        score: ℓ_1/mean(ℓ_2 … ℓ_k).
        distance: ℓ_1.
        feature_ratio: of the second stage; None without features, or where another image has the same ones.
        flipped: it is compared mirrored.
        flagged: a copy by both stages.
        repeats: training images equal to the nearest one, itself included.
        nearest: rows of the nearest training images, `train` first.
        distances: ℓ_j to them.
    """

    sample: int
    sample_name: str
    train: int
    train_name: str
    score: float
    distance: float
    feature_ratio: float | None
    flipped: bool
    flagged: bool
    repeats: int
    nearest: tuple[int, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        key: digest of samples, training images, options and extractor: decisions belong to one key.
        samples: where they came from.
        train: where they came from.
        num_samples: n.
        num_train: M.
        num_different: training images without repeats.
        extractor: name of the feature space; None where only pixels were compared.
        options: what was asked for.
        pairs: candidates, flagged ones first, those of the most-copied training image foremost.
    """

    key: str
    samples: str
    train: str
    num_samples: int
    num_train: int
    num_different: int
    extractor: str | None
    options: Options
    pairs: tuple[Pair, ...] = field(repr=False)

    @property
    def flagged(self) -> list[Pair]:
        """The automatic copies."""
        return [pair for pair in self.pairs if pair.flagged]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Audit":
        """What `to_dict` gave, after JSON."""
        pairs = [
            Pair(**{**pair, "nearest": tuple(pair["nearest"]), "distances": tuple(pair["distances"])})
            for pair in content["pairs"]
        ]
        return cls(**{**content, "options": Options(**content["options"]), "pairs": tuple(pairs)})


@dataclass(frozen=True)
class Group:
    """A training image and the samples that copy it.

    Attributes:
        train: its row.
        name: its file, or its row.
        copies: samples that copy it.
        repeats: training images equal to it, itself included.
    """

    train: int
    name: str
    copies: int
    repeats: int


@dataclass(frozen=True)
class Count:
    """How many samples are copies.

    Attributes:
        copies: samples that are copies.
        share: of all samples.
        interval: Wilson's 95 % interval of the share.
        images: different training images that they copy.
        without: the same count without the copies of the `left_out` most-copied training images.
        without_share: of all samples.
        without_interval: its interval.
        left_out: rows of these training images.
    """

    copies: int
    share: float
    interval: tuple[float, float]
    images: int
    without: int
    without_share: float
    without_interval: tuple[float, float]
    left_out: tuple[int, ...]


def groups(pairs: Sequence[Pair]) -> list[Group]:
    """Training images that samples copy, most-copied first; ties by the lower row."""
    copies = Counter(pair.train for pair in pairs)
    known = {pair.train: pair for pair in pairs}
    found = [Group(row, known[row].train_name, count, known[row].repeats) for row, count in copies.items()]
    return sorted(found, key=lambda group: (-group.copies, group.train))


def count(pairs: Sequence[Pair], num_samples: int, without: int) -> Count:
    """Count copies, with and without those of the most-copied training images.

    Args:
        pairs: the copies.
        num_samples: n, of all samples.
        without: how many training images the second count leaves out; only such with two copies or more.

    Source: arXiv 2601.19285, Sec. B.4.5, which leaves out three images that stand in the training set many times.
    """
    found = groups(pairs)
    left_out = tuple(group.train for group in found[:without] if group.copies > 1)
    rest = sum(group.copies for group in found if group.train not in left_out)
    return Count(
        len(pairs),
        len(pairs) / num_samples,
        wilson_interval(len(pairs), num_samples),
        len(found),
        rest,
        rest / num_samples,
        wilson_interval(rest, num_samples),
        left_out,
    )
