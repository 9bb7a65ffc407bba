"""The neighbor table against a float64 oracle, on real images and where it is hard: copies, ties, small classes."""

import sys

import pytest
import torch
from torch import nn

from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborTable, Pixels, build_neighbors
from tests.oracle.neighbors import neighbors_oracle


def check(table, expected, *, rtol=2e-6):
    indices, distances = expected
    assert torch.equal(table.indices, indices)
    assert table.distances.dtype == torch.float32
    torch.testing.assert_close(table.distances.double(), distances, rtol=rtol, atol=0)


@pytest.mark.parametrize("k", [1, 2, 30])
def test_pixels_match_the_oracle_on_all_emoji(emoji, k):
    check(build_neighbors(emoji, k), neighbors_oracle(emoji.flatten(1), k))


@pytest.mark.parametrize("shape", [(300, 5), (300, 3, 8, 8), (80, 3000)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_floats_match_the_oracle(shape, offset):
    data = offset + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    check(build_neighbors(data, 12), neighbors_oracle(data.flatten(1), 12))


def test_near_copies_keep_exact_distances(emoji):
    # A matrix product alone gives these distances an error of their own size.
    images = emoji[:150].float().div(255)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    data = torch.cat([images, images + 1e-5 * noise, images - 3e-6 * noise])
    check(build_neighbors(data, 8), neighbors_oracle(data.flatten(1), 8))


def test_uint8_and_float_give_one_table(emoji):
    integers, floats = build_neighbors(emoji[:300], 10), build_neighbors(emoji[:300].float() / 255, 10)
    torch.testing.assert_close(integers.distances, floats.distances, rtol=1e-5, atol=0)
    assert (integers.indices == floats.indices).float().mean() > 0.999


@pytest.mark.parametrize("copies", [2, 9, 40])
def test_copies_are_listed_by_identity(emoji, copies):
    data = emoji[:100].clone()
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:copies]
    data[rows] = data[rows[0]].clone()
    table = build_neighbors(data, 6)
    check(table, neighbors_oracle(data.flatten(1), 6))
    assert torch.equal(table.indices[:, 0], torch.arange(100))


def test_ties_at_the_last_place_go_to_the_lower_index():
    # Corners of a cube: hundreds of rows lie equally far, more than a first search returns.
    data = torch.randint(0, 2, (400, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    check(build_neighbors(data, 5), neighbors_oracle(data, 5))
    check(build_neighbors(data.float(), 5), neighbors_oracle(data.float(), 5))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_all_images_equally_far(scale):
    # Every other row ties, and a matrix product puts them in an order of its own.
    data = scale * torch.eye(300)[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    check(build_neighbors(data, 4), neighbors_oracle(data, 4))


def test_all_images_equal():
    table = build_neighbors(torch.full((60, 3, 4, 4), 7, dtype=torch.uint8), 4)
    assert table.indices[0].tolist() == [0, 1, 2, 3]
    assert table.indices[2].tolist() == [2, 0, 1, 3]
    assert table.indices[59].tolist() == [59, 0, 1, 2]
    assert not table.distances.any()


def test_an_outlier_does_not_spoil_the_others():
    data = torch.rand(200, 50, generator=torch.Generator().manual_seed(0))
    data[77] = 1e5
    check(build_neighbors(data, 9), neighbors_oracle(data, 9))


def test_order_of_the_rows_does_not_matter():
    data = torch.rand(250, 40, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(250, generator=torch.Generator().manual_seed(1))
    table, shuffled = build_neighbors(data, 10), build_neighbors(data[order], 10)
    assert torch.equal(order[shuffled.indices], table.indices[order])


def test_class_restricted(emoji, emoji_labels):
    rows = torch.arange(0, 1412, 3)
    table = build_neighbors(emoji[rows], 10, labels=emoji_labels[rows])
    check(table, neighbors_oracle(emoji[rows].flatten(1), 10, emoji_labels[rows]))
    assert table.variant == "class"


def test_features_of_any_module():
    torch.manual_seed(0)
    data = torch.rand(150, 3, 6, 6)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(108, 20), nn.Tanh())
    table = build_neighbors(data, 7, extractor=extractor, batch_size=41)
    check(table, neighbors_oracle(extractor(data).detach(), 7))
    assert table.space == "Sequential"


def test_the_pixel_extractor_is_the_default(emoji):
    one, other = build_neighbors(emoji[:50], 4), build_neighbors(emoji[:50], 4, extractor=Pixels())
    assert torch.equal(one.indices, other.indices)
    assert one.space == other.space == "pixels"


def test_radius_mask():
    distances = torch.tensor([[0, 1, 1.5, 1.6], [0, 0, 2, 3], [0, 0, 0, 0], [0, 1e-7, 4, 9]])
    indices = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [3, 0, 1, 2]])
    mask = NeighborTable(indices, distances).radius_mask(1.5)
    # A copy, exact or up to rounding, does not set the radius, and lies within it.
    assert mask.tolist() == [[True, True, True, False], [True] * 4, [True] * 4, [True, True, True, False]]
    with pytest.raises(UserError, match="positive"):
        NeighborTable(indices, distances).radius_mask(0)


def test_radius_mask_on_emoji(emoji):
    table = build_neighbors(emoji[:400], 20)
    expected = torch.zeros(400, 20, dtype=torch.bool)
    for i, row in enumerate(table.distances.tolist()):
        nearest = min(d for d in row if d > 0)
        for j, d in enumerate(row):
            expected[i, j] = d <= 1.2 * nearest
    mask = table.radius_mask(1.2)
    assert 0.06 < mask.float().mean() < 0.9
    assert (mask == expected).float().mean() > 0.9999  # float32 against float64 at the edge


def test_truncate(emoji):
    table = build_neighbors(emoji[:200], 12)
    cut = table.truncate(5)
    assert torch.equal(cut.indices, build_neighbors(emoji[:200], 5).indices)
    assert cut.k == 5
    assert cut.data_digest == table.data_digest
    assert cut.indices.data_ptr() == table.indices.data_ptr()
    with pytest.raises(UserError, match="k = 13"):
        table.truncate(13)


def test_describe(emoji):
    rows = torch.cat([torch.arange(360, 460), torch.arange(1140, 1160)])  # 9 images here have copies here
    table = build_neighbors(emoji[rows], 5)
    summary = table.describe()
    counts = [sum(i in row[1:] for row in table.indices.tolist()) for i in range(120)]
    assert summary.in_degree[1.0] == max(counts)
    assert summary.never_neighbor == counts.count(0)
    assert summary.nearest[0.5] == sorted(table.distances[:, 1].tolist())[60]
    assert summary.farthest[1.0] == table.distances.max()
    assert summary.duplicates == len(rows) - sum(
        int((emoji[rows] == image).flatten(1).all(1).sum() == 1) for image in emoji[rows]
    )
    assert summary.duplicates == 9
    assert (summary.rows, summary.k, summary.space, summary.variant) == (120, 5, "pixels", "hard")


@pytest.mark.parametrize(
    ("data", "k", "labels", "message"),
    [
        (torch.zeros(5, 4), 0, None, "k = 0"),
        (torch.zeros(5, 4), 5, None, "Tempered"),
        (torch.zeros(5, 4), 9, None, "k ≤ 4"),
        (torch.zeros(1, 4), 1, None, "two images"),
        (torch.zeros(5), 1, None, "two images"),
        (torch.zeros(5, 4, dtype=torch.int64), 2, None, "int64"),
        (torch.zeros(5, 4).index_fill(0, torch.tensor([3]), torch.nan), 2, None, "row 3"),
        (torch.zeros(5, 4).index_fill(0, torch.tensor([2]), -torch.inf), 2, None, "row 2"),
        (torch.zeros(5, 4), 2, torch.zeros(4, dtype=torch.int64), "labels"),
        (torch.zeros(5, 4), 2, torch.zeros(5), "labels"),
        (torch.zeros(5, 4), 3, torch.tensor([7, 7, 7, 9, 9]), "class 9 has 2 images"),
    ],
)
def test_bad_input_is_named(data, k, labels, message):
    with pytest.raises(UserError, match=message):
        build_neighbors(data, k, labels=labels)


def test_without_faiss_the_extras_are_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)

    class Untouched(nn.Module):
        def forward(self, images):
            raise AssertionError("work began before the check")

    with pytest.raises(UserError, match=r"smoothscore\[cpu\].*smoothscore\[gpu\]"):
        build_neighbors(torch.rand(5, 3, 4, 4), 2, extractor=Untouched())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, d: (i[:, :2], d), r"\[M, K\]"),
        (lambda i, d: (i.int(), d), "int32"),
        (lambda i, d: (i, d.double()), "float64"),
        (
            lambda i, d: (i.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(20)), d),
            r"row 4.*outside 0\.\.19",
        ),
        (lambda i, d: (i.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(-1)), d), "row 4.*outside"),
        (lambda i, d: (i.index_put((torch.tensor(5), torch.tensor(0)), torch.tensor(6)), d), "row 5.*itself"),
        (lambda i, d: (i.index_put((torch.tensor(5), torch.tensor(2)), torch.tensor(5)), d), "row 5.*second time"),
        (lambda i, d: (i, d.index_put((torch.tensor(7), torch.tensor(1)), torch.tensor(99.0))), "row 7.*unsorted"),
        (lambda i, d: (i, d.index_put((torch.tensor(7), torch.tensor(2)), torch.tensor(torch.nan))), "row 7"),
    ],
)
def test_a_wrong_table_is_refused(change, message):
    table = build_neighbors(torch.rand(20, 6, generator=torch.Generator().manual_seed(0)), 4)
    with pytest.raises(UserError, match=message):
        NeighborTable(*change(table.indices, table.distances))
