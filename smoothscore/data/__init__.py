"""Data modules: packed uint8 images with stable rows, and their neighbor tables."""

from smoothscore.data.arrays import Arrays
from smoothscore.data.base import ImageDataModule
from smoothscore.data.celeba import CelebA64, CelebAHQ256
from smoothscore.data.cifar import CIFAR10
from smoothscore.data.emoji import Emoji
from smoothscore.data.folder import ImageFolder
from smoothscore.data.huggingface import HuggingFace
from smoothscore.data.imagenet import ImageNet64
from smoothscore.data.images import Batch, ImageSet, Split, equal_reference_rows

__all__ = [
    "CIFAR10",
    "Arrays",
    "Batch",
    "CelebA64",
    "CelebAHQ256",
    "Emoji",
    "HuggingFace",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet64",
    "ImageSet",
    "Split",
    "equal_reference_rows",
]
