"""The resident pixels: exact values, in the order of the table, on the module's device."""

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
