"""Approximate tables against brute force: recall measured and held, distances exact, the cache told apart."""

import json
import re

import pytest
import torch
from torch import nn

from smoothscore.errors import UserError
from smoothscore.neighbors import Accuracy, NeighborTable, build_neighbors
from smoothscore.neighbors import build as build_module
from smoothscore.neighbors.approximate import choose_index, measure_recall, search_approximate
from smoothscore.neighbors.index import search
from tests.oracle.neighbors import neighbors_oracle

APPROXIMATE = ("ivf_flat", "hnsw", "ivf_pq")


def clustered(rows=3000, dim=24, seed=0):
    """Clusters that vary in a few directions, as features do, with exact copies among the rows."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(30, dim, generator=generator)
    basis = torch.randn(5, dim, generator=generator)
    label = torch.randint(0, 30, (rows,), generator=generator)
    data = centers[label] + 0.3 * torch.randn(rows, 5, generator=generator) @ basis
    data += 0.03 * torch.randn(rows, dim, generator=generator)
    data[100:110] = data[100]
    return data


@pytest.fixture(scope="module")
def data():
    return clustered()


@pytest.fixture(scope="module")
def truth(data):
    return neighbors_oracle(data, 10)


def true_recall(indices, truth):
    """By ids, over all rows; copies are interchangeable, and lie at distance 0 in both."""
    found = [len(set(row[1:]) & set(true[1:])) for row, true in zip(indices.tolist(), truth.tolist(), strict=True)]
    return sum(found) / (truth[:, 1:].numel())


@pytest.mark.parametrize("index", APPROXIMATE)
def test_recall_holds_and_distances_are_exact(data, truth, index):
    table = build_neighbors(data, 10, index=index, recall_floor=0.9, progress=False)
    assert true_recall(table.indices, truth[0]) > 0.89
    assert table.accuracy.index == index
    assert table.accuracy.recall == pytest.approx(true_recall(table.indices, truth[0]), abs=0.02)
    assert table.accuracy.sampled == 1000
    pairs = torch.arange(3000)[:, None].expand_as(table.indices)
    expected = (data.double()[pairs] - data.double()[table.indices]).norm(dim=2)
    torch.testing.assert_close(table.distances.double(), expected, rtol=2e-6, atol=0)
    assert torch.equal(table.indices[:, 0], torch.arange(3000))


@pytest.mark.parametrize("index", APPROXIMATE)
def test_searched_to_the_end_it_is_the_exact_table(data, index):
    """All cells, a walk through all nodes: what is left is the exact table, ties and copies included."""
    rows, exact = data[:600], search(data[:600], 6)
    found, accuracy = search_approximate(rows, 6, index=index, probes=600, recall_floor=0.1)
    agree = (found.indices == exact.indices).float().mean()
    assert agree == 1 if index == "ivf_flat" else agree > 0.97
    assert accuracy.recall >= 0.97
    same = found.indices == exact.indices
    torch.testing.assert_close(found.distances[same], exact.distances[same], rtol=1e-6, atol=0)


def test_uint8_rows_are_searched_as_they_are(emoji):
    table = build_neighbors(emoji, 8, index="ivf_flat", progress=False)
    indices, distances = neighbors_oracle(emoji.flatten(1), 8)
    assert true_recall(table.indices, indices) > 0.95
    torch.testing.assert_close(table.distances[:, -1].double().mean(), distances[:, -1].mean(), rtol=0.01, atol=0)


def test_more_probes_find_more(data, truth):
    recall = [
        true_recall(search_approximate(data, 10, index="ivf_flat", probes=n, recall_floor=0.01)[0].indices, truth[0])
        for n in (1, 2, 8, 77)
    ]
    assert recall == sorted(recall)
    assert recall[0] < 0.9 < 0.999 < recall[-1]


def test_the_measured_recall_is_that_of_the_oracle(data, truth):
    generator = torch.Generator().manual_seed(1)
    spoiled = truth[0].clone()
    wrong = torch.rand(3000, 9, generator=generator) < 0.2
    spoiled[:, 1:][wrong] = torch.randint(0, 3000, (int(wrong.sum()),), generator=generator)
    ids = torch.arange(0, 3000, 7)
    expected = 1 - wrong[ids].double().mean()
    assert measure_recall(data, spoiled[ids], ids) == pytest.approx(float(expected), abs=0.005)
    assert measure_recall(data, truth[0][ids], ids) == 1.0


def test_rows_whose_cells_hold_too_few_are_searched_exactly():
    # Two far clusters of 8 and many: the cells of the few cannot give 20 neighbors with one probe.
    data = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    data[:8] += 100
    found, _ = search_approximate(data, 20, index="ivf_flat", probes=1, recall_floor=0.01)
    indices, _ = neighbors_oracle(data[:], 20)
    assert torch.equal(found.indices[:8], indices[:8])
    NeighborTable(*found)


def test_a_recall_under_the_floor_is_refused_before_the_long_search():
    noise = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))  # the hardest there is
    ready = []
    with pytest.raises(UserError, match=r"recall of 0\.\d+ on 1000 rows.*floor = 0\.95.*probes \(now 1\)"):
        search_approximate(noise, 10, index="ivf_flat", probes=1, advance=ready.append)
    assert not ready
    found, accuracy = search_approximate(noise, 10, index="ivf_flat")  # raises its probes until the floor holds
    assert accuracy.recall >= 0.95
    assert accuracy.probes > 8
    assert len(found.indices) == 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "lsh"}, "lsh.*ivf_flat"),
        ({"recall_floor": 0.0}, "recall_floor = 0.0"),
        ({"recall_floor": 95}, "recall_floor = 95"),
        ({"probes": 0}, "probes = 0"),
        ({"index": "hnsw", "labels": torch.zeros(300, dtype=torch.int64)}, "class-restricted"),
        ({"index": "ivf_pq"}, "too few"),
    ],
)
def test_options_that_cannot_be_met_are_named(data, options, message):
    rows = data[:300] if options.get("labels") is not None else data[:200]
    with pytest.raises(UserError, match=message):
        build_neighbors(rows, 3, progress=False, **options)


def test_auto_goes_by_rows_and_memory():
    size = {"row_bytes": 2048, "budget": 2048 * 1_000_000}
    assert choose_index("auto", 250_000, **size) == "exact"
    assert choose_index("auto", 250_001, **size) == "ivf_flat"
    assert choose_index("auto", 1_000_001, **size) == "ivf_pq"
    assert choose_index("hnsw", 10, **size) == "hnsw"


def test_small_data_stay_exact_to_the_bit(data):
    one, other = build_neighbors(data[:500], 7), search(data[:500], 7)
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.distances, other.distances)
    assert one.accuracy == Accuracy("exact", 1.0, 0, 0)


def test_the_key_has_the_index_and_the_manifest_the_recall(data, tmp_path, capsys):
    calls = ({}, {"index": "ivf_flat"}, {"index": "ivf_flat", "probes": 20}, {"index": "ivf_flat", "recall_floor": 0.9})
    for options in calls:
        first = build_neighbors(data, 5, cache_dir=tmp_path, **options)
        again = build_neighbors(data, 5, cache_dir=tmp_path, **options)
        assert first.accuracy == again.accuracy
        assert torch.equal(first.indices, again.indices)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) == len(calls)
    metas = [json.loads((folder / "manifest.json").read_text())["meta"] for folder in folders]
    assert sorted(meta["index"] for meta in metas) == ["exact", "ivf_flat", "ivf_flat", "ivf_flat"]
    assert all(0.9 <= meta["recall"] <= 1 for meta in metas)
    assert len(re.findall(r"recall [01]\.\d+ on 1,000 rows", capsys.readouterr().out)) == 3  # printed once each
    # an explicit "exact" is the table that "auto" gives small data
    build_neighbors(data, 5, cache_dir=tmp_path, index="exact")
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == len(calls)


def test_a_wider_table_serves_and_is_mapped(data, tmp_path, monkeypatch):
    wide = build_neighbors(data[:400], 30, cache_dir=tmp_path)
    monkeypatch.setattr(build_module, "search", None)  # nothing may be searched now
    narrow = build_neighbors(data[:400], 10, cache_dir=tmp_path)
    assert torch.equal(narrow.indices, wide.indices[:, :10])
    assert narrow.indices.stride() == (30, 1)  # a view of the file, not a copy
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    loaded = NeighborTable.load(folder, k=10)
    assert torch.equal(loaded.distances, narrow.distances)
    with pytest.raises(UserError, match="k = 31"):
        NeighborTable.load(folder, k=31)
    with pytest.raises(TypeError):  # a wider one is asked for: it has to be searched
        build_neighbors(data[:400], 31, cache_dir=tmp_path)


def test_the_file_stays_as_it_is_whatever_is_done_to_the_table(data, tmp_path):
    table = build_neighbors(data[:100], 4)
    table.save(tmp_path / "t")
    loaded = NeighborTable.load(tmp_path / "t")
    loaded.distances[:] = 7
    assert torch.equal(NeighborTable.load(tmp_path / "t").distances, table.distances)


def test_tables_from_before_there_were_others_are_exact(data, tmp_path, monkeypatch):
    table = build_neighbors(data[:100], 4)
    folder = table.to_folder()
    old = {name: value for name, value in folder.meta.items() if name not in Accuracy._fields}
    assert NeighborTable.from_folder(folder._replace(meta=old), tmp_path).accuracy == Accuracy()


def test_many_classes_in_parallel_equal_one_after_another(data):
    labels = torch.randint(0, 60, (3000,), generator=torch.Generator().manual_seed(0))
    table = build_neighbors(data, 6, labels=labels)
    for label in (0, 17, 59):
        members = (labels == label).nonzero()[:, 0]
        alone = search(data[members], 6)
        assert torch.equal(table.indices[members], members[alone.indices])
        assert torch.equal(table.distances[members], alone.distances)
    assert table.accuracy == Accuracy()


def test_rows_beyond_the_budget_are_joined_on_disk(data, tmp_path):
    images = data.view(3000, 24, 1, 1)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(24, 8))
    options = {"extractor": extractor, "index": "ivf_flat", "progress": False}
    one = build_neighbors(images, 5, cache_dir=tmp_path / "a", memory_budget=1, **options)
    other = build_neighbors(images, 5, **options)
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.distances, other.distances)


@pytest.mark.slow
@pytest.mark.parametrize("index", APPROXIMATE)
def test_long_forms_of_the_recall(index):
    data = clustered(30_000, 64)
    exact = search(data, 30)
    found, accuracy = search_approximate(data, 30, index=index)
    assert true_recall(found.indices, exact.indices) == pytest.approx(accuracy.recall, abs=0.02)
    assert accuracy.recall >= 0.95
