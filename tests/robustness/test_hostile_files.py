"""Arrays, tables, archives and images that want to run, write or fill the memory: refused by name."""

import io
import json
import resource
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data import CIFAR10, Arrays, ImageFolder
from smoothscore.data.samples import SampleSet
from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborTable, build_neighbors
from smoothscore.neighbors.cache import MANIFEST, write_manifest
from smoothscore.neighbors.digests import digest_file


def npy_of_objects(trap):
    buffer = io.BytesIO()
    np.save(buffer, np.array([trap.gadget], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_arrays_of_objects(tmp_path, trap, tally):
    path = tmp_path / "images.npy"
    path.write_bytes(npy_of_objects(trap))
    with pytest.raises(UserError, match=r"images\.npy"):
        _ = Arrays(images=str(path), image_size=8).train
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.npy").write_bytes(npy_of_objects(trap))
    with pytest.raises(UserError, match=r"0\.npy cannot be read"):
        _ = ImageFolder(root=str(folder), image_size=8, cache_dir=str(tmp_path / "c")).train
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as archive:
        for name in ("images", "seeds", "step", "nfe", "seconds"):
            archive.writestr(f"{name}.npy", npy_of_objects(trap))
    with pytest.raises(UserError, match=r"samples\.npz is damaged"):
        SampleSet.load(tmp_path / "samples.npz")
    table = tmp_path / "table"
    build_neighbors(torch.rand(9, 3, 2, 2), 2).save(table)
    (table / "indices.npy").write_bytes(npy_of_objects(trap))
    forge(table, lambda manifest: None)
    with pytest.raises(UserError, match=r"indices\.npy"):
        NeighborTable.load(table)
    tally("hostile files: arrays of objects", detected=4)


def forge(folder, change):
    """Write a manifest anew, digests and all, as whoever made the folder can."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("sha256")
    for name in manifest["files"]:
        manifest["files"][name] = digest_file(folder / f"{name}.npy")
    change(manifest)
    write_manifest(folder, manifest)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", ""])
def test_names_that_lead_out_of_a_table(tmp_path, tally, name):
    table = tmp_path / "table"
    build_neighbors(torch.rand(9, 3, 2, 2), 2).save(table)
    (tmp_path / "outside.npy").write_bytes((table / "indices.npy").read_bytes())
    forge(table, lambda manifest: manifest["files"].update({name: digest_file(tmp_path / "outside.npy")}))
    with pytest.raises(UserError, match="would lead out of the folder"):
        NeighborTable.load(table)
    tally("hostile files: paths that lead out of the folder", detected=1)


def test_archives_write_nothing(tmp_path, trap, tally):
    """Zip and tar members are read where they lie: names and links that lead outside have nothing to act on."""
    png = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(png, "PNG")
    with zipfile.ZipFile(trap.place / "images.zip", "w") as archive:
        for name in ("../escaped.png", "/escaped.png", "c/../../escaped.png", *(f"c/{n}.png" for n in range(4))):
            archive.writestr(name, png.getvalue())
    _ = ImageFolder(root=str(trap.place / "images.zip"), image_size=8, num_test=2).train
    with tarfile.open(trap.place / "cifar-10-binary.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
        _ = CIFAR10(root=str(trap.place)).train
    tally("hostile files: paths that lead out of the folder", survived=3, detected=1)


def png_of(width, height):
    """A picture whose header promises more than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def npy_of(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + b"\0" * 99


BOMBS = {
    "wide.png": png_of(100_000, 100_000),
    "huge.png": png_of(2**31 - 1, 2**31 - 1),
    "huge.npy": npy_of((2**40, 2**20)),
    "long.npy": npy_of((10**6, 10**6, 3)),
    "gap.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x08\xff",
    "cut.tif": b"II*\0\xff\xff\xff\xff",
    "cut.webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 \xff\xff\xff\x7f",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("zipped", [False, True])
def test_image_bombs(tmp_path, tally, name, zipped):
    root = tmp_path / ("a.zip" if zipped else "folder")
    if zipped:
        with zipfile.ZipFile(root, "w") as archive:
            archive.writestr(name, BOMBS[name])
    else:
        root.mkdir()
        (root / name).write_bytes(BOMBS[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        _ = ImageFolder(root=str(root), image_size=8, cache_dir=str(tmp_path / "c")).train
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # KiB
    tally("hostile files: image and archive bombs", detected=1)


def test_a_zip_bomb(tmp_path, tally):
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("c/0.png", "w", force_zip64=True) as member,
    ):
        block = bytes(1 << 24)
        for _ in range(65):  # a good gigabyte in a megabyte
            member.write(block)
    assert (tmp_path / "a.zip").stat().st_size < 2_000_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"c/0\.png cannot be read \(it would take 1,0"):
        _ = ImageFolder(root=str(tmp_path / "a.zip"), image_size=8, cache_dir=str(tmp_path / "c")).train
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000
    tally("hostile files: image and archive bombs", detected=1)
