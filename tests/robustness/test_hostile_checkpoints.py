"""Checkpoints and exported models that want to run or build something foreign: each is refused by name."""

import json
import pickle
import struct

import pytest
import torch
import yaml

from smoothscore.cli import main
from smoothscore.data import CIFAR10
from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned
from smoothscore.modules.checkpoint import load_trained, read_checkpoint
from smoothscore.modules.exchange import export_model, load_exported
from smoothscore.modules.storage import CheckpointFiles, write_checkpoint
from smoothscore.modules.trust import INSTANTIATOR
from smoothscore.neighbors.features import load_weights
from smoothscore.networks import NCSNpp, UNet, import_score_sde

NETWORK = {"class_path": "smoothscore.networks.UNet",
           "init_args": {"image_size": 8, "nf": 8, "ch_mult": [1, 2], "conditioned": True}}  # fmt: skip
MODEL = {"class_path": "smoothscore.modules.NoiseConditioned", "init_args": {"sigma_max": 10.0, "network": NETWORK}}


def good_checkpoint(**changes):
    torch.manual_seed(0)
    module = NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)), sigma_max=10.0)
    config = {"model": MODEL}
    content = {"state_dict": module.state_dict(), "global_step": 3, "callbacks": {}, "pytorch-lightning_version": "2.6",
               "smoothscore": {"version": "0", "config": yaml.safe_dump(config)}}  # fmt: skip
    return {**content, **changes}


def config_with(**changes):
    model = {"class_path": MODEL["class_path"], "init_args": {**MODEL["init_args"], **changes}}
    return {"smoothscore": {"version": "0", "config": yaml.safe_dump({"model": model})}}


def refused(path, reads, match):
    for read in reads:
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)
    return len(reads)


def cli_resume(path):
    """What `fit --ckpt_path` does before it trains."""
    from smoothscore.cli import training

    config = path.parent / "fit.yaml"
    data = {"class_path": "Emoji", "init_args": {"image_size": 8, "num_train": 20, "num_test": 4, "batch_size": 4}}
    config.write_text(yaml.safe_dump({"model": MODEL, "data": data}))
    training.run("fit", ["--config", str(config), "--ckpt_path", str(path), "--trainer.fast_dev_run=1"])


READS = [read_checkpoint, load_trained, CheckpointFiles().load_checkpoint, cli_resume]


def test_good_files_of_the_same_kinds_are_opened(tmp_path):
    """Otherwise the rest would show nothing."""
    write_checkpoint(good_checkpoint(), tmp_path / "a.ckpt")
    assert load_trained(tmp_path / "a.ckpt").step == 3
    lightnings = {"_instantiator": INSTANTIATOR, "_class_path": MODEL["class_path"], "sigma_max": 10.0}
    write_checkpoint(good_checkpoint(hyper_parameters=lightnings), tmp_path / "b.ckpt")
    assert load_trained(tmp_path / "b.ckpt").step == 3
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    trainer = {"callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}, {"class_path": "evil.Any"}]}
    record = {"version": "0", "config": yaml.safe_dump({"model": MODEL, "trainer": trainer})}  # never built
    write_checkpoint(good_checkpoint(smoothscore=record), tmp_path / "d.ckpt")
    assert load_trained(tmp_path / "d.ckpt").step == 3
    for optimizer in (adam, "smoothscore.modules.base.adamw"):
        write_checkpoint(good_checkpoint(**config_with(optimizer=optimizer)), tmp_path / "c.ckpt")
        assert load_trained(tmp_path / "c.ckpt").step == 3


@pytest.mark.parametrize("sealed", [False, True])
def test_pickle_gadgets(tmp_path, trap, tally, sealed):
    count = 0
    for number, changes in enumerate(
        [
            {"x": trap.gadget},
            {"state_dict": trap.gadget},
            {"callbacks": {"EMA": trap.gadget}},
        ]
    ):
        path = tmp_path / f"{number}.ckpt"
        (write_checkpoint if sealed else torch.save)(good_checkpoint(**changes), path)
        count += refused(path, READS, r"posix\.system")
    path = tmp_path / "bare.ckpt"
    path.write_bytes(pickle.dumps(trap.gadget))
    count += refused(path, READS, "cannot be read|posix")
    tally("hostile files: pickles that run a command", detected=count)


def test_pickle_gadgets_in_other_files(tmp_path, trap, tally):
    path = tmp_path / "checkpoint_1.pth"
    torch.save({"model": {}, "ema": trap.gadget}, path)
    count = refused(path, [lambda p: import_score_sde(p, NCSNpp(8, nf=8, ch_mult=(1,), num_res_blocks=1))], "system")
    count += refused(path, [lambda p: load_weights(torch.nn.Linear(1, 1), str(p))], "cannot be loaded")
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (batches / name).write_bytes(pickle.dumps({b"data": trap.gadget, b"labels": []}, protocol=2))
    with pytest.raises(UserError, match=r"data_batch_1.*system"):
        _ = CIFAR10(root=str(tmp_path), cache_dir=str(tmp_path / "c")).train
    tally("hostile files: pickles that run a command", detected=count + 1)


@pytest.mark.parametrize(
    "wanted", ["os.system", "evil.make", "lightning.pytorch.cli.instantiate_module.evil", 3, ["os.system"]]
)
def test_foreign_instantiators(tmp_path, trap, tally, wanted):
    path = tmp_path / "a.ckpt"
    write_checkpoint(good_checkpoint(hyper_parameters={"_instantiator": wanted, "sigma_max": 10.0}), path)
    count = refused(path, READS, "_instantiator")
    tally("hostile files: checkpoints that name foreign code", detected=count)


FOREIGN = [
    {"network": {"class_path": "evil.Network", "init_args": {}}},
    {"network": "evil.Network"},
    {"optimizer": "evil.optimizer"},
    {"optimizer": "os.system"},
    {"optimizer": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
    {"network": {"class_path": "torch.hub.load", "init_args": {}}},
    {"network": {"class_path": "smoothscore.data.samples.os.system", "init_args": {}}},
    {"optimizer": "smoothscore.data.samples.os.system"},
    {"optimizer": "torch.optim.optimizer.functools.partial"},
]


@pytest.mark.parametrize("changes", FOREIGN, ids=lambda changes: str(changes)[:60])
def test_foreign_classes_in_the_configuration(tmp_path, trap, tally, changes):
    path = tmp_path / "a.ckpt"
    write_checkpoint(good_checkpoint(**config_with(**changes)), path)
    count = refused(path, [load_trained], "not part of smoothscore|cannot be built again")
    folder = export_model(load_good(tmp_path), tmp_path / "exported", {})[0].parent
    config = json.loads((folder / "config.json").read_text())
    config["model"]["init_args"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json asks for"):
        load_exported(folder)
    hyper = {"_class_path": MODEL["class_path"], **changes}
    write_checkpoint(good_checkpoint(hyper_parameters=hyper), path)
    count += refused(path, [cli_resume], "not part of smoothscore")
    tally("hostile files: checkpoints that name foreign code", detected=count + 1)


def load_good(tmp_path):
    write_checkpoint(good_checkpoint(), tmp_path / "good.ckpt")
    return load_trained(tmp_path / "good.ckpt")


def test_a_foreign_module_class(tmp_path, trap, tally):
    path = tmp_path / "a.ckpt"
    config = {"model": {**MODEL, "class_path": "evil.Module"}}
    write_checkpoint(good_checkpoint(smoothscore={"version": "0", "config": yaml.safe_dump(config)}), path)
    count = refused(path, [load_trained], r"evil\.Module, which is not part of smoothscore")
    config = {"model": MODEL, "data": {"class_path": "evil.Data", "init_args": {}}}
    write_checkpoint(good_checkpoint(smoothscore={"version": "0", "config": yaml.safe_dump(config)}), path)
    count += refused(path, [lambda path: load_trained(path).data], r"evil\.Data, which is not part of smoothscore")
    write_checkpoint(good_checkpoint(hyper_parameters={"_class_path": "evil.Module"}), path)
    count += refused(path, [cli_resume], r"evil\.Module, which is not part of smoothscore")
    tally("hostile files: checkpoints that name foreign code", detected=count)


def test_a_users_own_class_that_the_run_names_is_opened(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (tmp_path / "own_networks.py").write_text("from smoothscore.networks import UNet\nclass Mine(UNet): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {**MODEL, "init_args": {"sigma_max": 10.0, "network": {**NETWORK, "class_path": "own_networks.Mine"}}}
    record = {"smoothscore": {"version": "0", "config": yaml.safe_dump({"model": model})}}
    path = run / "checkpoints" / "last.ckpt"
    write_checkpoint(good_checkpoint(**record), path)
    with pytest.raises(UserError, match=r"own_networks\.Mine.*config\.yaml"):
        load_trained(path)
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    trained = load_trained(path)
    assert type(trained.module.network).__name__ == "Mine"
    folder = export_model(trained, tmp_path / "exported", {})[0].parent
    with pytest.raises(UserError, match=r"own_networks\.Mine"):
        load_exported(folder)
    load_exported(folder, trust=["own_networks.Mine"])


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch trace']",
        "model: !!python/name:os.system",
        "[1, 2]",
        "model: 3",
        "a: &a [1, *a]\nmodel: [",
        "[" * 3000,
        "a: &a [x, x]\n"
        + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefghij", "bcdefghijk", strict=True)),
    ],
    ids=lambda text: text[:20],
)
def test_configurations_that_are_none(tmp_path, trap, tally, text):
    path = tmp_path / "a.ckpt"
    write_checkpoint(good_checkpoint(smoothscore={"version": "0", "config": text}), path)
    tally("hostile files: damaged contents", detected=refused(path, [load_trained], "damaged|cannot be built"))


@pytest.mark.parametrize("state", [3, [1], {"network.conv_in.weight": 3}, {}, {3: torch.zeros(1)}], ids=str)
def test_weights_that_are_none(tmp_path, tally, state):
    path = tmp_path / "a.ckpt"
    write_checkpoint(good_checkpoint(state_dict=state), path)
    tally("hostile files: damaged contents", detected=refused(path, [load_trained], "do not fit|holds no state_dict"))


def safetensors(header, data=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


MALFORMED = {
    "empty": b"",
    "short": b"\x01",
    "length beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "no JSON": safetensors(b"{" * 50),
    "offsets beyond the file": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "overlap": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "huge shape": safetensors({"a": {"dtype": "F32", "shape": [2**40, 2**30], "data_offsets": [0, 4]}}, bytes(4)),
    "negative": safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "unknown type": safetensors({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "other weights": safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a pickle": pickle.dumps([1]),
    "deep": safetensors(b'{"a":' * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_safetensors(tmp_path, tally, name):
    folder = export_model(load_good(tmp_path), tmp_path / "exported", {})[0].parent
    load_exported(folder)
    (folder / "model.safetensors").write_bytes(MALFORMED[name])
    with pytest.raises(UserError, match="exported"):
        load_exported(folder)
    tally("hostile files: malformed safetensors", detected=1)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"model": []}', "[" * 100_000, '{"model": {"class_path": "UNet"}}'])
def test_malformed_export_configurations(tmp_path, tally, text):
    folder = export_model(load_good(tmp_path), tmp_path / "exported", {})[0].parent
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="exported"):
        load_exported(folder)
    tally("hostile files: damaged contents", detected=1)


def test_the_command_line_refuses_in_one_paragraph(tmp_path, trap, capsys, tally):
    torch.save(good_checkpoint(x=trap.gadget), tmp_path / "a.ckpt")
    with pytest.raises(SystemExit) as caught:
        main(["export", str(tmp_path / "a.ckpt"), "--out", str(tmp_path / "out")])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"smoothscore: error: The checkpoint {tmp_path / 'a.ckpt'} cannot be read (it asks for")
    assert "posix.system to be run" in error
    assert not (tmp_path / "out").exists()
    tally("hostile files: pickles that run a command", detected=1)


def test_a_checkpoint_without_digest_opens_with_a_warning(tmp_path):
    torch.save(good_checkpoint(), tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="carries no digest"):
        assert load_trained(tmp_path / "a.ckpt").step == 3
