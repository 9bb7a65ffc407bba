"""Generated images beside their nearest training images, as a table."""

import csv
import io

import torch
from lightning import Trainer
from torch import Tensor

from smoothscore.callbacks.logger import log_table, run_folder
from smoothscore.data.grid import to_bytes
from smoothscore.data.samples import SampleSet, write_atomically
from smoothscore.distances import decode
from smoothscore.functional import MemorizationReport

_COLUMNS = ("seed", "ratio", "distance", "nearest")


def keep_neighbors(
    trainer: Trainer, samples: SampleSet, report: MemorizationReport, train: Tensor, *, most: int
) -> None:
    """Write neighbors.csv, the most copied first, and show the first of them in every logger that has tables.

    Columns: seed of the sample, its ratio d1/d2, its distance d1 in pixels, and the row of its nearest training image.
    Every process must call it.

    Args:
        trainer: whose run folder and loggers.
        samples: in the order of their seeds.
        report: of the samples, in the order in which processes were gathered.
        train: training images [M, C, H, W].
        most: rows of the shown table, where sample and match are pictures.
    """
    folder = run_folder(trainer)  # asked of every process, before only one of them goes on
    if not trainer.is_global_zero:
        return
    count, world_size = len(samples.seeds), trainer.world_size
    order = report.ratio.cpu().argsort(stable=True)
    place = gathered_places(count, world_size)[order]
    columns = (samples.seeds[place], *(part.cpu()[order] for part in (report.ratio, report.distance, report.nearest)))
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    write_atomically(folder / "neighbors.csv", text.getvalue().encode())
    drawn = to_bytes(samples.images[place[:most]]).numpy()
    match = to_bytes(decode(train[columns[3][:most]])).cpu().numpy()
    log_table(
        trainer,
        "generation/neighbors",
        [*_COLUMNS, "sample", "match"],
        [[*row, *pair] for row, *pair in zip(rows[:most], drawn, match, strict=True)],
    )


def gathered_places(count: int, world_size: int) -> Tensor:
    """Which sample stands where after gathering, if process r holds samples r, r + world_size, …: int64 [count]."""
    return torch.cat([torch.arange(count)[rank::world_size] for rank in range(world_size)])
