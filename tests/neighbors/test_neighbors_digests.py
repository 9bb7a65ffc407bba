"""Digests: equal for equal contents, different for any change, and read once while nothing changed."""

import torch
from torch import nn

from smoothscore.neighbors import digests
from smoothscore.neighbors.digests import digest_module, digest_tensor


def test_digest_of_a_large_tensor_is_read_once_and_again_when_it_changed(monkeypatch):
    monkeypatch.setattr(digests, "_REMEMBERED", 1000)
    read = []
    original = digests._digest
    monkeypatch.setattr(digests, "_digest", lambda data: read.append(len(data)) or original(data))
    large, small = torch.arange(4000, dtype=torch.uint8), torch.arange(100, dtype=torch.uint8)
    first = digest_tensor(large)
    assert digest_tensor(large) == first
    assert digest_tensor(small) == digest_tensor(small)
    assert read == [4000, 100, 100]
    assert digest_tensor(large.clone()) == first
    large[17] += 1
    assert digest_tensor(large) != first
    assert digest_tensor(large) == original(large)


def test_digests_do_not_depend_on_the_layout_or_the_mode():
    data = torch.rand(30, 3, 2, 2)
    strided = data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not strided.is_contiguous()
    assert digest_tensor(strided) == digest_tensor(data) != digest_tensor(data.double())
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = digest_module(module)
    assert digest_module(module.eval()) == before
    module(data)
    module[1].running_mean += 1
    assert digest_module(module) != before
