"""The cost experiment at a tiny size: what it counts, not how fast it is."""

import pytest
import torch

from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import cost
from smoothscore.experiments.cost import _memory
from smoothscore.neighbors import Pixels

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "batch_size": 8, "k": 4, "num_steps": 2}


def test_all_variants_take_steps(monkeypatch, tmp_path):
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path))
    data = Emoji(num_train=24, num_test=4, image_size=8)
    result = cost(data=data, extractor=Pixels(), device="cpu", **SMALL)
    rows = {row["variant"]: row for row in result.rows}
    assert list(rows) == ["conditioned", "unconditioned", "KNN-pixel", "KNN-feature"]
    assert rows["conditioned"]["ratio"] == 1
    assert all(row["seconds"] > 0 for row in rows.values())
    # a blind network has no embedding, so it has fewer parameters and keeps less for the backward pass
    assert rows["unconditioned"]["parameters"] < rows["conditioned"]["parameters"]
    assert 0 < rows["unconditioned"]["memory_mib"] < rows["conditioned"]["memory_mib"]
    assert rows["KNN-pixel"]["parameters"] == rows["unconditioned"]["parameters"]
    assert data.table is None  # the data set given is left as it was


def test_memory_is_what_the_backward_pass_keeps():
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(256, 64)

    def step():
        (x @ weight).exp().sum().backward()  # keeps x and the exponential, each once

    assert _memory(step, torch.device("cpu")) == 2 * x.nbytes


@pytest.mark.parametrize(("options", "culprit"), [({"k": 0}, "k is 0"), ({"k": 24}, "k = 24"), ({"nf": 0}, "nf is 0")])
def test_bad_options_are_named(options, culprit, monkeypatch, tmp_path):
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path))
    data = Emoji(num_train=24, num_test=4, image_size=8)
    with pytest.raises(UserError, match=culprit):
        cost(data=data, extractor=Pixels(), device="cpu", **{**SMALL, **options})
