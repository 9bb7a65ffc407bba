"""One pure function per measure of generated images, and the expansion ratio."""

from smoothscore.functional.authenticity import auth_pct, authentic
from smoothscore.functional.calibrated import calibrated_distance
from smoothscore.functional.copying import CopyTest, c_t
from smoothscore.functional.diversity import vendi
from smoothscore.functional.excess import CopyReference, CopyScores, ExcessCopies, excess_copies
from smoothscore.functional.expansion import (
    ExpansionPoints,
    ExpansionRatio,
    expansion_points,
    expansion_prediction,
    expansion_ratio,
    overlap_sigmas,
)
from smoothscore.functional.extraction import Extraction, extract
from smoothscore.functional.fidelity import PRDC, prdc
from smoothscore.functional.frechet import (
    FrechetReference,
    feature_statistics,
    frechet_bias,
    frechet_distance,
    frechet_from_features,
)
from smoothscore.functional.intervals import difference_interval, fraction_interval, jackknife_interval
from smoothscore.functional.kernel import KernelDistance, kernel_distance
from smoothscore.functional.memorization import MemorizationReport, RatioCurve, memorization_ratio, memorization_report
from smoothscore.functional.pairs import nearest_pairs, random_pairs
from smoothscore.functional.penalized import MiFID, mifid

__all__ = [
    "PRDC",
    "CopyReference",
    "CopyScores",
    "CopyTest",
    "ExcessCopies",
    "ExpansionPoints",
    "ExpansionRatio",
    "Extraction",
    "FrechetReference",
    "KernelDistance",
    "MemorizationReport",
    "MiFID",
    "RatioCurve",
    "auth_pct",
    "authentic",
    "c_t",
    "calibrated_distance",
    "difference_interval",
    "excess_copies",
    "expansion_points",
    "expansion_prediction",
    "expansion_ratio",
    "extract",
    "feature_statistics",
    "fraction_interval",
    "frechet_bias",
    "frechet_distance",
    "frechet_from_features",
    "jackknife_interval",
    "kernel_distance",
    "memorization_ratio",
    "memorization_report",
    "mifid",
    "nearest_pairs",
    "overlap_sigmas",
    "prdc",
    "random_pairs",
    "vendi",
]
