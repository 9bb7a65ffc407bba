"""Weights out and in: the same numbers on both sides."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from smoothscore.cli import main
from smoothscore.data.samples import SampleSet
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import load_trained
from smoothscore.modules.exchange import load_exported
from tests.cli.test_commands import FAST, SMALL
from tests.networks.test_ncsnpp import PlainNCSNpp, randomized, save

NETWORK = {"image_size": 16, "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run, once for all tests here."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SMOOTHSCORE_CACHE", str(folder / "cache"))
        main(["fit", "--config", str(FAST), *SMALL])
    return folder / "runs" / "emoji_fast" / "version_0"


def test_exported_module_is_the_averaged_one_and_its_card_says_what_was_measured(run, tmp_path):
    checkpoint = run / "checkpoints" / "last.ckpt"
    main(["export", str(checkpoint), "--out", str(tmp_path / "out")])
    trained, exported = load_trained(checkpoint).module, load_exported(tmp_path / "out")
    raw = load_trained(checkpoint, average=False).module
    x = torch.rand(2, *trained_shape(run))
    assert torch.equal(exported.score(x, 0.3), trained.score(x, 0.3))
    assert not torch.equal(exported.score(x, 0.3), raw.score(x, 0.3))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "memorization/fraction" in card
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["class_path"]
    main(["export", str(checkpoint), "--raw", "--out", str(tmp_path / "raw")])
    assert torch.equal(load_exported(tmp_path / "raw").score(x, 0.3), raw.score(x, 0.3))


def test_export_of_another_average(run, tmp_path, capsys):
    checkpoint = run / "checkpoints" / "last.ckpt"
    held = torch.load(checkpoint, weights_only=True)["callbacks"]["EMA"]["decay"]
    main(["export", str(checkpoint), "--decay", str(held), "--out", str(tmp_path / "out")])
    x = torch.rand(2, *trained_shape(run))
    assert torch.equal(load_exported(tmp_path / "out").score(x, 0.3), load_trained(checkpoint).module.score(x, 0.3))
    for wrong, message in ((["--decay", "0.123"], f"0.123, but {held}"), (["--raw", "--decay", str(held)], "one of")):
        with pytest.raises(SystemExit):
            main(["export", str(checkpoint), *wrong, "--out", str(tmp_path / "wrong")])
        assert message in capsys.readouterr().err


def trained_shape(run):
    return load_trained(run / "checkpoints" / "last.ckpt").data.image_shape


def test_damaged_or_missing_export_is_refused(run, tmp_path):
    main(["export", str(run / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "out")])
    path = tmp_path / "out" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_exported(tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_exported(tmp_path / "out")


@pytest.mark.parametrize("discrete", [False, True])
def test_imported_checkpoint_draws_the_samples_of_its_own_network(tmp_path, monkeypatch, discrete):
    monkeypatch.chdir(tmp_path)
    embedding = "positional" if discrete else "fourier"
    peer = randomized(PlainNCSNpp(16, 16, (1, 2), 1, (8,), embedding=embedding)).eval()
    save(peer, tmp_path / "checkpoint_1.pth", average=1.0)
    flags = ["--discrete"] if discrete else []
    main(["import", "checkpoint_1.pth", "--network", json.dumps(NETWORK), "--out", "imported", *flags])
    trained = load_trained("imported/model.ckpt")
    level = torch.tensor([100, 700])
    sigma = peer.sigmas[level].float()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = peer(x, level if discrete else sigma)
    assert torch.allclose(trained.module.score(x, sigma), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="--data"):
        _ = trained.data
    assert yaml.safe_load(Path("imported/model.yaml").read_text())["class_path"].endswith("NoiseConditioned")


def test_imported_checkpoint_serves_predict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    save(randomized(PlainNCSNpp(16, 16, (1, 2), 1, (8,))), tmp_path / "checkpoint_1.pth")
    main(["import", "checkpoint_1.pth", "--network", json.dumps(NETWORK), "--out", "imported"])
    config = {
        "model": "imported/model.yaml",
        "data": {"class_path": "Emoji", "init_args": {"num_train": 20, "num_test": 8, "image_size": 16,
                                                      "batch_size": 8}},
        "trainer": {
            "logger": {"class_path": "RunLogger", "init_args": {"save_dir": "runs", "name": "imported"}},
            "callbacks": [{"class_path": "Generation", "init_args": {
                "num_samples": 4, "sampler": {"class_path": "PredictorCorrector", "init_args": {"sigmas": 5}}}}],
        },
    }  # fmt: skip
    Path("config.yaml").write_text(yaml.safe_dump(config))
    main(["predict", "--config", "config.yaml", "--ckpt_path", "imported/model.ckpt"])
    (samples,) = Path("runs").rglob("samples.npz")
    assert SampleSet.load(samples).images.isfinite().all()


def test_bad_input_is_named(run, tmp_path, capsys):
    for args, culprit in (
        (["export", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "o")], "does not exist"),
        (["import", str(run / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "o")], "score_sde"),
        (["import", "x.pth", "--network", '{"nf": -1}', "--out", str(run / "config.yaml")], "is a file"),
    ):
        with pytest.raises(SystemExit, match="1"):
            main(args)
        assert culprit in capsys.readouterr().err
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "bare.ckpt")
    content = torch.load(tmp_path / "bare.ckpt", weights_only=True)
    del content["smoothscore"]
    torch.save(content, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match="keeps no configuration"):
        load_trained(tmp_path / "bare.ckpt")
