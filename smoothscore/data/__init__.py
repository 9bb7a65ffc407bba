"""Data modules: packed uint8 images with stable rows, and their neighbor tables."""

from smoothscore.data.base import ImageDataModule
from smoothscore.data.emoji import Emoji
from smoothscore.data.folder import ImageFolder
from smoothscore.data.images import Batch, ImageSet, Split, equal_reference_rows

__all__ = ["Batch", "Emoji", "ImageDataModule", "ImageFolder", "ImageSet", "Split", "equal_reference_rows"]
