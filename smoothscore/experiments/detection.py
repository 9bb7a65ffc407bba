"""Copy detectors side by side on images of which is known who is a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smoothscore.functional import CopyReference, CopyScores, authentic, calibrated_distance
from smoothscore.functional.copying import mann_whitney_z
from smoothscore.functional.ranks import hypergeometric_tail
from smoothscore.functional.training import TrainingImages
from smoothscore.neighbors import Pixels, extract_features, extractor_name

NEW, LABELS, C_T = "excess copies", "excess copies (labels)", "C_T"
LEVEL = 0.05  # of every test
_DRAWS = 999
_NEIGHBORS = 50  # of the calibrated distance

Spaces = Mapping[str, Tensor]


class Look(NamedTuple):
    """What all detectors keep of some images."""

    caught: dict[str, Tensor]  # by detector that has a rule for single images: bool [n]
    ratio: Tensor  # [n] d1/d2 in the first space
    distance: Tensor  # [n] to the nearest training image, in the last space
    scores: CopyScores


class Verdict(NamedTuple):
    """What one detector says of one set of samples."""

    detector: str
    p_value: float


class Detectors:
    """All detectors, made ready for one training set and one set of held-out images, which is every one's control.

    A detector with a rule for single images (the ratio d1/d2 below 1/3 or 2/3, Carlini's calibrated distance below 1,
    images that are not authentic) compares how many samples and how many held-out images it catches by Fisher's exact
    test; C_T is the Mann–Whitney test of the source with one cell; excess copies bring their own p-values.

    Args:
        train: training images in each space, pixels first.
        held_out: held-out images likewise.
        seed: of the division of the held-out images.
    """

    def __init__(self, train: Spaces, held_out: Spaces, *, seed: int) -> None:
        self._train = train
        self._reference = CopyReference(train, held_out, seed=seed)
        self._seed = seed
        self._images = {name: TrainingImages(rows) for name, rows in train.items()}
        self._control = self.look(held_out)

    def look(self, images: Spaces) -> Look:
        """Look at images once; any part of them can be judged later."""
        caught, matches = {}, {name: trained.match(images[name]) for name, trained in self._images.items()}
        for name, match in matches.items():
            for label, threshold in (("1/3", 1 / 3), ("2/3", 2 / 3)):
                caught[f"d1/d2 < {label} ({name})"] = match.ratio < threshold
        first, *_ = *_, last = self._train
        neighbors = min(_NEIGHBORS, len(self._images[first].rows))
        calibrated = calibrated_distance(images[first], self._train[first], neighbors=neighbors)
        caught["calibrated distance"] = calibrated < 1
        caught["AuthPct"] = ~authentic(self._train[last], images[last])
        scores = self._reference.score(images)
        caught[NEW] = self._reference.report(scores, draws=1).sample_p <= LEVEL
        return Look(caught, matches[first].ratio, matches[last].distance, scores)

    def judge(self, parts: Sequence[tuple[Look, slice]]) -> list[Verdict]:
        """One p-value of each detector for samples that are put together from parts of what was looked at."""
        verdicts = []
        for name, control in self._control.caught.items():
            if name == NEW:
                continue
            caught = torch.cat([look.caught[name][part] for look, part in parts])
            count, other = int(caught.sum()), int(control.sum())
            total = len(caught) + len(control)
            verdicts.append(Verdict(name, hypergeometric_tail(count, len(caught), count + other, total)))
        z = mann_whitney_z(self._control.distance, torch.cat([look.distance[part] for look, part in parts]))
        verdicts.append(Verdict(C_T, (1 + math.erf(z / 2**0.5)) / 2))
        columns = zip(*([column[part] for column in look.scores] for look, part in parts), strict=True)
        report = self._reference.report(CopyScores(*map(torch.cat, columns)), draws=_DRAWS, seed=self._seed)
        return [*verdicts, Verdict(NEW, report.p_value), Verdict(LABELS, report.label_p_value)]


def spaces_of(images: Tensor, extractor: nn.Module) -> dict[str, Tensor]:
    """Images in pixels and, where there are others, in features."""
    spaces = {"pixels": images}
    if not isinstance(extractor, Pixels):
        spaces[extractor_name(extractor)] = extract_features(images, extractor, progress=False)
    return spaces


def take(spaces: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some of the images, in every space."""
    return {name: images[rows] for name, images in spaces.items()}


def line(name: str, number: int) -> dict[str, object]:
    """How a detector is drawn: the new ones thick."""
    if name in (NEW, LABELS):
        return {"color": "C1", "marker": "o", "linewidth": 2, "linestyle": "-" if name == NEW else ":"}
    if name == C_T:
        return {"color": "black", "marker": "x", "linestyle": "-"}
    return {"color": f"C{(0, 2, 3, 4, 5)[number // 2 % 5]}", "marker": ".", "linestyle": ("--", "-")[number % 2]}
