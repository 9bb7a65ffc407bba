"""Which training images a smoothed target may look at: extractors, the table of neighbors, the pixels beside it."""

from smoothscore.neighbors.build import build_neighbors
from smoothscore.neighbors.exchange import export_features, import_table
from smoothscore.neighbors.extract import extract_features
from smoothscore.neighbors.features import (
    EfficientNetLite0,
    Extractor,
    Pixels,
    TorchvisionFeatures,
    extractor_name,
)
from smoothscore.neighbors.hub import HubFeatures
from smoothscore.neighbors.inception import InceptionFeatures
from smoothscore.neighbors.store import NeighborStore
from smoothscore.neighbors.table import Accuracy, NeighborTable, TableSummary

__all__ = [
    "Accuracy",
    "EfficientNetLite0",
    "Extractor",
    "HubFeatures",
    "InceptionFeatures",
    "NeighborStore",
    "NeighborTable",
    "Pixels",
    "TableSummary",
    "TorchvisionFeatures",
    "build_neighbors",
    "export_features",
    "extract_features",
    "extractor_name",
    "import_table",
]
