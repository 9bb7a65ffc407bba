"""The path to a GPU, on a stand-in for faiss-gpu that counts its calls (there is no GPU where these tests run)."""

import pytest
import torch

from smoothscore.neighbors import build_neighbors
from smoothscore.neighbors import index as index_module
from smoothscore.neighbors.index import require_faiss


@pytest.fixture
def gpu(monkeypatch):
    faiss = require_faiss()
    calls = []

    def knn_gpu(resources, queries, database, width):
        assert resources == "scratch"
        calls.append(len(queries))
        return faiss.knn(queries, database, width)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "scratch", raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    index_module._gpu_resources.cache_clear()
    yield calls
    index_module._gpu_resources.cache_clear()


@pytest.mark.parametrize("index", ["exact", "ivf_flat"])
def test_a_gpu_screens_and_the_table_is_the_same(gpu, monkeypatch, index):
    data = torch.rand(2000, 12, generator=torch.Generator().manual_seed(0))
    with_gpu = build_neighbors(data, 6, index=index, progress=False)
    assert len(gpu) > 0
    monkeypatch.setattr(require_faiss(), "get_num_gpus", lambda: 0)
    used = len(gpu)
    without = build_neighbors(data, 6, index=index, progress=False)
    assert len(gpu) == used
    assert torch.equal(with_gpu.indices, without.indices)
    assert torch.equal(with_gpu.distances, without.distances)


def test_classes_share_a_gpu_one_after_another(gpu):
    data = torch.rand(300, 12, generator=torch.Generator().manual_seed(0))
    build_neighbors(data, 6, labels=torch.arange(300) % 3, progress=False)
    assert gpu == [100, 100, 100]


def test_more_candidates_than_a_gpu_selects_are_screened_on_the_cpu(gpu):
    build_neighbors(torch.zeros(2500, 3), 2100, progress=False)  # all equal: all are candidates
    assert not gpu
