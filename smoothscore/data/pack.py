"""Packed images: a memory-mapped uint8 file with labels and digests, built once, opened at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from smoothscore.data.images import ImageSet, Split, count_held_out, subset
from smoothscore.data.packing import FILES, FORMAT, Source, build_pack, map_array
from smoothscore.errors import UserError
from smoothscore.neighbors.cache import damaged, locked, read_manifest
from smoothscore.neighbors.digests import digest_tensor

CHECKED = 4 << 30  # bytes of a file that are digested at every start: a second or two where there are a few cores


class Pack(NamedTuple):
    """A pack on disk, opened: its images are memory-mapped.

    Attributes:
        images: all images, those of the first part first.
        parts: rows of each part.
        left_out: names of the unreadable items.
    """

    images: ImageSet
    parts: Mapping[str, int]
    left_out: tuple[str, ...]

    def split(self, num_train: int | None, num_test: int | None, seed: int) -> Split:
        """Train and test: the parts of these names, or else one cut through all rows, test images first.

        Args:
            num_train: training images; None is all.
            num_test: held-out images; None is the whole part, or a tenth of all rows.
            seed: which images are taken where fewer are asked for than a part has.

        Raises:
            UserError: more images are asked for than there are.
        """
        total = len(self.images.pixels)
        if "all" in self.parts:
            border = count_held_out(total, num_train, num_test)
            end = total if num_train is None else border + num_train
            return Split(self.images.rows(slice(border, end)), self.images.rows(slice(border)))
        border = self.parts["train"]
        train, test = self.images.rows(slice(border)), self.images.rows(slice(border, total))
        return Split(subset(train, num_train, seed, "num_train"), subset(test, num_test, seed, "num_test"))


def open_pack(source: Source, cache_dir: Path, *, skip_bad: bool = False) -> Pack:
    """Open the pack of a source; build it first where it is absent. One process builds, others wait.

    A build that was killed goes on where it stood. Whether unreadable items are tolerated is no property of the pack,
    so a build that stopped at one goes on when `skip_bad` is set.

    Args:
        source: what is to be packed.
        cache_dir: the folder that the pack's own folder lies in.
        skip_bad: leave out unreadable items, and say how many.

    Raises:
        UserError: an unreadable item, nothing but such items, a damaged or stale pack, or a disk that refuses.
    """
    folder = cache_dir / f"{source.name.lower()}-{source.key[:16]}"
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                build_pack(source, folder, skip_bad)
    pack = _open(folder, source.key)
    if pack.left_out:
        count = sum(map(len, source.parts.values()))
        report = f"{len(pack.left_out)} of {count} files left out as unreadable, the first of them {pack.left_out[0]}"
        if not skip_bad:
            raise UserError(f"{source.name}: {report}: mend or remove them, or set skip_bad to go on without them.")
        tqdm.write(report)
    return pack


def _open(folder: Path, key: str) -> Pack:
    """Map a pack.

    The sizes are checked always, the bytes of files up to `CHECKED` only: every start of every process would read a
    larger pack from one end to the other, and packing is there to spare that.
    """
    manifest = read_manifest(folder, FORMAT)
    if manifest["key"] != key:
        raise UserError(f"{folder} is stale: it was packed from other files: delete the folder and run again.")
    tensors = {}
    for name in FILES:
        try:
            size, expected = (folder / name).stat().st_size, manifest["bytes"][name]
            if size != expected:
                raise ValueError(f"it has {size} bytes, expected {expected}")
            tensors[name] = map_array(folder / name)
            if size <= CHECKED and digest_tensor(tensors[name]) != manifest["digests"][name]:
                raise ValueError("its bytes differ from what was written")
        except (OSError, ValueError) as error:
            raise damaged(folder, name, error) from error
    images = ImageSet(tensors["pixels.npy"], tensors["labels.npy"], tuple(manifest["classes"]))
    return Pack(images, manifest["parts"], tuple(manifest["left_out"]))
