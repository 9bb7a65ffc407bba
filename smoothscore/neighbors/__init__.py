"""Which training images a smoothed target may look at: extractors, the table of neighbors, the pixels beside it."""

from smoothscore.neighbors.build import build_neighbors
from smoothscore.neighbors.features import (
    EfficientNetLite0,
    Extractor,
    Pixels,
    TorchvisionFeatures,
    extract_features,
    extractor_name,
)
from smoothscore.neighbors.store import NeighborStore
from smoothscore.neighbors.table import NeighborTable, TableSummary

__all__ = [
    "EfficientNetLite0",
    "Extractor",
    "NeighborStore",
    "NeighborTable",
    "Pixels",
    "TableSummary",
    "TorchvisionFeatures",
    "build_neighbors",
    "extract_features",
    "extractor_name",
]
