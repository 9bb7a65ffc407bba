"""`smoothscore extract SAMPLES`: which samples are copies, as tables, grids and a page to review."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from torch import nn

import smoothscore.neighbors
import smoothscore.samplers  # noqa: F401  # both imported, so that class_path takes short names
from smoothscore.cli.help import OwnExtractors
from smoothscore.cli.inputs import open_device, open_folder, open_train
from smoothscore.data import ImageDataModule
from smoothscore.data.base import default_cache_dir
from smoothscore.data.sources import Images, open_images
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import load_trained
from smoothscore.modules.drawing import draw_samples
from smoothscore.report.audit import audit
from smoothscore.report.decisions import conclude
from smoothscore.report.evidence import in_words, write_evidence
from smoothscore.report.findings import Options, count, groups
from smoothscore.report.review import write_review
from smoothscore.samplers import Sampler

_TOP = 5  # training images that are named in the terminal


def run(name: str, args: Sequence[str]) -> None:
    """Find copies and write the evidence, or draw the conclusions from a person's decisions."""
    parser = _parser(name)
    parsed = parser.parse_args(list(args))
    out = open_folder(parsed.out)
    if parsed.decisions is not None:  # nothing is instantiated: concluding needs neither data nor extractor
        if parsed.samples is not None:
            raise UserError(f"--decisions concludes the audit in {out}: leave {parsed.samples} out.")
        print("\n".join(conclude(out, Path(parsed.decisions))))
        print(f"{out / 'final.json'}\n{out / 'final.csv'}\n{out / 'final_training_images.csv'}")
        return
    options = parser.instantiate(parsed)
    if options.samples is None:
        raise UserError("No samples are given: name a checkpoint, a folder of images, an .npy or an .npz file.")
    _audit(options, out)


def _audit(options: Namespace, out: Path) -> None:
    for option in ("pairs", "batch_size", "num_samples"):
        if options[option] < 1:
            raise UserError(f"--{option} is {options[option]}, but it must be at least 1.")
    if options.without < 0:
        raise UserError(f"--without is {options.without}, but it counts images: give 0 or more.")
    state = out / "state"
    samples, train = _open(options, state)
    settings = Options(options.quantile, options.neighbors, options.flips, options.margin, options.without)
    device = open_device(options.device)
    found = audit(samples, train, state, options=settings, extractor=options.extractor, device=device)
    files = write_evidence(found, samples, train, out)
    write_review(found, samples, train, out / "review.html", num_pairs=options.pairs)
    print(
        f"samples: {len(samples.pixels):,} ({samples.source}); training images: {len(train.pixels):,} ({train.source})"
    )
    if found.extractor is None:
        print(
            f"candidates by pixels alone: {len(found.pairs):,}; they need not be copies, since any samples have so many"
        )
    else:
        print(f"candidates by pixels: {len(found.pairs):,}; kept by both stages ({found.extractor} features):")
        print(f"  {in_words(count(found.flagged, found.num_samples, settings.without), found.num_samples)}")
    for group in groups(found.flagged)[:_TOP]:
        if group.copies > 1:
            again = f", which stands in the training set {group.repeats} times" if group.repeats > 1 else ""
            print(f"  {group.copies:,} samples match training image {group.name}{again}")
    if len(found.flagged) > options.pairs:
        print(f"review.html shows the first {options.pairs:,} of {len(found.flagged):,}: --pairs shows more")
    print("\n".join(map(str, [*files, out / "review.html"])))


def _open(options: Namespace, state: Path) -> tuple[Images, Images]:
    cache = default_cache_dir()
    path = Path(options.samples)
    reading = {"cache_dir": cache, "scratch": state, "resize": options.resize, "skip_bad": options.skip_bad}
    if path.suffix != ".ckpt":
        train = open_train(options.data, options.train, **reading)
        return open_images(path, **reading), train
    trained = load_trained(path)
    data = options.data if options.data is not None or options.train is not None else trained.data
    train = open_train(data, options.train, **reading)
    drawn = draw_samples(
        trained,
        state / "samples",
        options.num_samples,
        sampler=options.sampler,
        seed=options.seed,
        batch_size=options.batch_size,
        device=open_device(options.device),
    )
    return Images(drawn, f"{path}, seeds {options.seed} to {options.seed + options.num_samples - 1}"), train


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}",
        formatter_class=OwnExtractors,
        description="Find the samples of a model, any model, that are copies of training images: first by pixels "
        "(nearest image much nearer than the next ones), then by features. Writes pairs.csv, training_images.csv, "
        "extraction.json, grids/*.png and review.html, on which a person decides. A run that was killed goes on when "
        "it is called again. Source: arXiv 2601.19285, Sec. B.4.5.",
    )
    parser.add_argument("--config", action="config", help="YAML with the options below")
    parser.add_argument(
        "samples", nargs="?", type=str | None, help="checkpoint (.ckpt), folder or zip of images, .npy or .npz"
    )
    parser.add_argument("--out", default="extract", metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--decisions", type=str | None, metavar="FILE", help="what review.html exported: write the final counts to DIR"
    )
    train = parser.add_argument_group("training images (a checkpoint brings its own)")
    train.add_argument("--data", type=ImageDataModule | None, help="data set, for instance CIFAR10")
    train.add_argument("--train", type=str | None, metavar="PATH", help="folder or zip of images, .npy or .npz")
    train.add_argument("--resize", type=int | None, metavar="SIDE", help="bring image files to SIDE×SIDE pixels")
    train.add_argument("--skip_bad", action="store_true", help="leave out files that cannot be read")
    stages = parser.add_argument_group("the two stages")
    stages.add_argument("--quantile", type=float, default=0.05, help="share of the samples that the first stage keeps")
    stages.add_argument("--neighbors", type=int, default=50, help="nearest training images of the pixel score")
    stages.add_argument("--flips", action="store_true", help="compare with mirrored training images too")
    stages.add_argument(
        "--extractor",
        type=nn.Module | None,
        default={"class_path": "EfficientNetLite0"},
        help="features of the second stage; null stops after pixels",
    )
    stages.add_argument("--margin", type=float, default=0.5, help="feature ratio below which a candidate is a copy")
    stages.add_argument(
        "--without", type=int, default=3, metavar="N", help="count also without the N most-copied images"
    )
    shown = parser.add_argument_group("review page")
    shown.add_argument("--pairs", type=int, default=1000, metavar="N", help="candidates on the page")
    drawing = parser.add_argument_group("drawing from a checkpoint")
    drawing.add_argument("--num_samples", type=int, default=10_000, metavar="N", help="samples to draw")
    drawing.add_argument("--sampler", type=Sampler | None, help="without it that of the run's Generation callback")
    drawing.add_argument("--seed", type=int, default=0, help="of the first sample; the next has the next seed")
    drawing.add_argument("--batch_size", type=int, default=128, help="samples drawn at a time")
    parser.add_argument(
        "--device", type=str | None, metavar="NAME", help="cpu or cuda; without it cuda if there is one"
    )
    return parser
