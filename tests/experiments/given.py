"""A data set of a test's own pixels."""

import torch

from smoothscore.data import ImageDataModule
from smoothscore.data.images import ImageSet, Split


class Given(ImageDataModule):
    """The same images for training and held out; pixels uint8 [M, C, H, W]."""

    def __init__(self, pixels):
        super().__init__(image_size=pixels.shape[-1])
        self.pixels = pixels

    def read(self):
        images = ImageSet(self.pixels, torch.zeros(len(self.pixels), dtype=torch.int64))
        return Split(images, images)
