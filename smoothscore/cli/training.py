"""`smoothscore fit | validate | test | predict`: LightningCLI over our modules and data modules."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import smoothscore.callbacks
import smoothscore.data
import smoothscore.modules
import smoothscore.neighbors
import smoothscore.networks
import smoothscore.samplers  # noqa: F401  # all of them imported, so that class_path takes short names
from smoothscore.callbacks import Interruption, LossGuard, RunRecord
from smoothscore.cli.compose import expand_bases
from smoothscore.data import ImageDataModule
from smoothscore.modules import ScoreModule
from smoothscore.modules.checkpoint import read_checkpoint
from smoothscore.modules.storage import CheckpointFiles
from smoothscore.modules.trust import named_classes, refuse_foreign_classes


class TrainingCLI(LightningCLI):
    """LightningCLI that checks a checkpoint before any long work starts, and lets nothing of a run be lost."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Two callbacks that every training has."""
        parser.add_lightning_class_args(Interruption, "interruption")  # type: ignore[arg-type]
        parser.add_lightning_class_args(LossGuard, "loss_guard")  # type: ignore[arg-type]

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse what `smoothscore` was called with; Lightning would warn that it came as a list."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        if path and (str(path) not in ("best", "last", "hpc") or Path(path).is_file()):
            content = read_checkpoint(Path(path))
            # Lightning builds the module that hyper-parameters in a checkpoint ask for.
            refuse_foreign_classes(content.get("hyper_parameters"), named_classes(config.as_dict()), Path(path))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer whose checkpoints are whole or absent, unless the configuration names its own plugin for them."""
        given = self._get(self.config_init, "trainer", default={}).get("plugins") or []
        plugins = list(given) if isinstance(given, (list, tuple)) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(CheckpointFiles())
        return super().instantiate_trainer(plugins=plugins, **kwargs)


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
