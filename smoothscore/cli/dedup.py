"""`smoothscore dedup`: exact and near duplicates of a data set, as a page and as a list that trainings leave out."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from torch import nn

import smoothscore.neighbors  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.cli.help import OwnExtractors
from smoothscore.cli.inputs import open_device, open_folder, open_train
from smoothscore.data import ImageDataModule
from smoothscore.data.base import default_cache_dir
from smoothscore.errors import UserError
from smoothscore.report.duplicates import find_duplicates
from smoothscore.report.duplicates_page import write_duplicates_page


def run(name: str, args: Sequence[str]) -> None:
    """Find duplicates and write the table, the lists and the page."""
    parser = _parser(name)
    options = parser.instantiate(parser.parse_args(list(args)))
    if options.clusters < 1:
        raise UserError(f"--clusters is {options.clusters}, but at least one has to be shown.")
    out = open_folder(options.out)
    train = open_train(
        options.data,
        options.images,
        cache_dir=default_cache_dir(),
        scratch=out / "state",
        resize=options.resize,
        skip_bad=options.skip_bad,
        option="a path",
    )
    found = find_duplicates(
        train,
        pixel_threshold=options.pixels,
        feature_threshold=options.features,
        extractor=options.extractor,
        flips=options.flips,
        device=open_device(options.device),
    )
    files = found.write(out)
    write_duplicates_page(found, train, out / "duplicates.html", num_clusters=options.clusters)
    kinds = ", ".join(f"{found.count(kind):,} {words}" for kind, words in _KINDS.items())
    print(f"{len(found.repeats):,} of {found.num_rows:,} images repeat another, in {len(found.clusters):,} clusters:")
    print(f"  {kinds}")
    chained = sum(not repeat.direct for repeat in found.repeats)
    if chained:
        print(f"{chained:,} of them only by way of others: look at the page before you exclude them")
    if options.data is not None:
        print(f"a training with the same data options leaves them out: --data.init_args.exclude {out / 'exclude.json'}")
    print("\n".join(map(str, [*files, out / "duplicates.html"])))


_KINDS = {"exact": "exact", "pixels": "near in pixels", "features": "near in features"}


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}",
        formatter_class=OwnExtractors,
        description="Find the images of a training set that repeat others, exactly or nearly, in pixels and in "
        "features. Writes duplicates.csv, duplicates.json, duplicates.html to look at, and exclude.json (and .csv), "
        "which data modules take as `exclude`: the first image of each cluster stays.",
    )
    parser.add_argument("--config", action="config", help="YAML with the options below")
    parser.add_argument("images", nargs="?", type=str | None, help="folder or zip of images, .npy or .npz; or --data")
    parser.add_argument("--data", type=ImageDataModule | None, help="data set, whose training images are compared")
    parser.add_argument("--out", default="dedup", metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--pixels", type=float, default=0.04, help="root mean square difference of near duplicates; 0: exact ones only"
    )
    parser.add_argument("--features", type=float, default=0.15, help="distance of near duplicates in features")
    parser.add_argument(
        "--extractor",
        type=nn.Module | None,
        default={"class_path": "EfficientNetLite0"},
        help="features; null compares pixels only",
    )
    parser.add_argument("--flips", action="store_true", help="compare mirrored pixels too")
    parser.add_argument("--clusters", type=int, default=300, metavar="N", help="clusters on the page")
    parser.add_argument("--resize", type=int | None, metavar="SIDE", help="bring image files to SIDE×SIDE pixels")
    parser.add_argument("--skip_bad", action="store_true", help="leave out files that cannot be read")
    parser.add_argument("--device", type=str | None, metavar="NAME", help="cpu or cuda; default: cuda if there is one")
    return parser
