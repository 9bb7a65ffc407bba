"""`smoothscore fit | validate | test | predict`: LightningCLI over our modules and data modules."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import smoothscore.callbacks
import smoothscore.data
import smoothscore.modules
import smoothscore.neighbors
import smoothscore.networks
import smoothscore.samplers  # noqa: F401  # all of them imported, so that class_path takes short names
from smoothscore.callbacks import RunRecord
from smoothscore.cli.compose import expand_bases
from smoothscore.data import ImageDataModule
from smoothscore.modules import ScoreModule
from smoothscore.modules.checkpoint import read_checkpoint


class TrainingCLI(LightningCLI):
    """LightningCLI that checks a checkpoint before any long work starts."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what `smoothscore` was called with; Lightning would warn that it came as a list."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and str(path) not in ("best", "last", "hpc"):
            read_checkpoint(Path(path))


def run(name: str, args: Sequence[str]) -> None:
    """Parse and run one of the trainer's commands."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # between Lightning 2.6 and torch 2.14, not the user's
    TrainingCLI(
        ScoreModule,
        ImageDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunRecord,
        seed_everything_default=42,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=[name, *expand_bases(args)],
        parser_kwargs={"description": "Train and evaluate score models with smoothed targets."},
    )
