"""The resident pixels: exact values, in the order of the table, on the module's device."""

import numpy as np
import pytest
import torch
from torch import nn

from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborStore, NeighborTable, build_neighbors


@pytest.fixture(scope="module")
def table(emoji):
    return build_neighbors(emoji[:500], 9)


INDEX = torch.tensor([499, 0, 3, 3, 250])


@pytest.mark.parametrize("k", [None, 1, 4, 9])
def test_images_are_the_rows_of_the_table(table, emoji, k):
    store = NeighborStore(table, emoji[:500])
    expected = emoji[:500][table.indices[INDEX, :k]] / 255
    found = store.images(INDEX, k)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(found[:, 0], emoji[INDEX] / 255)
    out = torch.full_like(expected, torch.nan)
    assert store.images(INDEX, k, out=out) is out
    assert torch.equal(out, expected)


def test_many_rows_go_in_pieces(emoji):
    store = NeighborStore(build_neighbors(emoji, 40), emoji)
    index = torch.arange(0, 1412, 40)
    assert torch.equal(store.images(index), emoji[store.indices[index]] / 255)


def test_float_data_keep_their_bits(table, emoji):
    data = emoji[:500] / 255 + 1e-6
    store = NeighborStore(table, data).half().bfloat16()  # what a trainer in low precision does to its modules
    found = store.images(INDEX)
    assert found.dtype == torch.float32
    assert torch.equal(found, data[table.indices[INDEX]])


def test_autocast_and_low_precision_change_nothing(table, emoji):
    store = NeighborStore(table, emoji[:500])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = store.half().images(INDEX)
    assert found.dtype == torch.float32
    assert torch.equal(found, emoji[:500][table.indices[INDEX]] / 255)


def mapped(tmp_path, data):
    np.save(tmp_path / "pixels.npy", data.numpy())
    return torch.from_numpy(np.load(tmp_path / "pixels.npy", mmap_mode="c"))


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1, 1 / 255])  # uint8 and float
def test_pixels_are_the_same_wherever_they_lie(table, emoji, tmp_path, device, scale):
    data = mapped(tmp_path, emoji[:500] if scale == 1 else emoji[:500] * scale)
    size = data.nbytes
    stores = {
        "device": NeighborStore(table, data, device_budget=size),
        "host": NeighborStore(table, data, device_budget=size - 1, host_budget=size),
        "disk": NeighborStore(table, data, device_budget=size - 1, host_budget=size - 1),
    }
    index = INDEX.to(device)
    expected = NeighborStore(table, data).to(device).images(index)
    for place, store in stores.items():
        store = store.half().to(device)
        assert ("pixels" in dict(store.named_buffers())) == (place == "device")
        assert store.pixels.device.type == (device if place == "device" else "cpu")
        assert store.pixels.is_pinned() == (place == "host" and torch.cuda.is_available())
        for k in (9, 4):
            found = store.images(index, k)
            assert found.device == index.device
            assert torch.equal(found, expected[:, :k])
            out = torch.empty_like(expected[:, :k].contiguous())
            assert torch.equal(store.images(index, k, out=out), out)
            assert torch.equal(out, found)
    assert stores["disk"].pixels.data_ptr() == data.data_ptr()  # still the file itself


def test_pixels_on_the_host_stay_there(table, emoji):
    store = NeighborStore(table, emoji[:500], device_budget=0).to("meta")
    assert store.indices.device.type == "meta"
    assert store.pixels.device.type == "cpu"


def test_the_host_brings_the_rows_that_are_asked_for(table, emoji):
    for data in (emoji[:500], emoji[:500] / 255):
        store = NeighborStore(table, data, device_budget=0)
        found = store._bring(INDEX)  # what goes to another device
        assert torch.equal(found if found.dtype == torch.uint8 else found.view(torch.float32), data[INDEX].flatten(1))


def test_no_rows(table, emoji):
    assert NeighborStore(table, emoji[:500]).images(INDEX[:0]).shape == (0, 9, 3, 32, 32)


def test_it_follows_its_module_and_stays_out_of_checkpoints(table, emoji):
    module = nn.Module()
    module.neighbors = NeighborStore(table, emoji[:500], radius=1.5)
    assert module.state_dict() == {}
    assert all(buffer.device.type == "meta" for buffer in module.to("meta").buffers())
    assert len(list(module.buffers())) == 3


def test_masks(table, emoji):
    assert NeighborStore(table, emoji[:500]).mask(INDEX) is None
    store = NeighborStore(table, emoji[:500], radius=1.3)
    assert torch.equal(store.mask(INDEX), table.radius_mask(1.3)[INDEX])
    assert torch.equal(store.mask(INDEX, 4), table.radius_mask(1.3)[INDEX, :4])


def test_what_does_not_fit_is_refused(table, emoji):
    with pytest.raises(UserError, match=r"500 rows.*499"):
        NeighborStore(table, emoji[:499])
    with pytest.raises(UserError, match="stale"):
        NeighborStore(table, emoji[1:501])
    with pytest.raises(UserError, match="k = 10"):
        NeighborStore(table, emoji[:500]).images(INDEX, 10)
    with pytest.raises(UserError, match="k = 0"):
        NeighborStore(table, emoji[:500]).images(INDEX, 0)
    unbound = NeighborTable(table.indices, table.distances)  # of unknown data: only the number of rows can be checked
    NeighborStore(unbound, emoji[1:501])
