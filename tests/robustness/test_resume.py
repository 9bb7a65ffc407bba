"""A training that is killed anywhere and resumed equals one that was not, bit for bit."""

import csv
from pathlib import Path

import pytest

from tests.robustness.fits import STEPS, assert_same_bits, final_state, fit, kill, write_config


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The last state of undisturbed runs, by number of processes."""
    folder = tmp_path_factory.mktemp("straight")
    states = {}

    def state(processes):
        if processes not in states:
            place = folder / f"p{processes}"
            place.mkdir()
            codes, log = fit(place, write_config(place / "config.yaml"), processes=processes, resume=False)
            assert codes == [0] * processes, log[-3000:]
            states[processes] = final_state(place)
            assert states[processes]["global_step"] == STEPS
        return states[processes]

    return state


def killed_and_resumed(folder, name, step, *, processes=1, where="backward", rank=0):
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    plain = write_config(folder / "plain.yaml")
    config = write_config(folder / "killed.yaml", callbacks=[kill(name, step, where=where, rank=rank)])
    codes, log = fit(folder, config, processes=processes)
    if name == "SIGTERM" and step > STEPS - processes:  # too late to stop before the last validation
        assert codes == [0] * processes, log[-3000:]
        return final_state(folder)
    assert all(codes), (codes, log[-3000:])  # none of the processes thinks that the training is over
    if name == "SIGTERM":
        assert codes == [143] * processes, log[-3000:]
        assert "SIGTERM: stopped after step" in log
    codes, log = fit(folder, plain, processes=processes)
    assert codes == [0] * processes, log[-3000:]
    return final_state(folder)


def steps_of(folder, column):
    with (Path(folder) / "runs" / "run" / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[column]]


def note(tally, name, processes):
    tally(f"{name} during training, {processes} process{'es' * (processes > 1)}: equal to a straight run bit for bit",
          survived=1)  # fmt: skip


# Before the first checkpoint, within an epoch, at the end of one; every step in the long form.
@pytest.mark.parametrize(("name", "step"), [("SIGKILL", 2), ("SIGKILL", 13), ("SIGTERM", 2), ("SIGTERM", 8)])
def test_one_process(tmp_path, straight, tally, name, step):
    assert_same_bits(killed_and_resumed(tmp_path / "run", name, step), straight(1))
    assert set(steps_of(tmp_path / "run", "val/loss")) == {7, 15, 23}
    assert set(steps_of(tmp_path / "run", "train/loss")) == set(range(STEPS))
    note(tally, name, 1)


@pytest.mark.parametrize(("name", "where", "step"), [("SIGKILL", "validation", 16), ("SIGKILL", "save", 12)])
def test_outside_of_a_step(tmp_path, straight, tally, name, where, step):
    assert_same_bits(killed_and_resumed(tmp_path / "run", name, step, where=where), straight(1))
    note(tally, name, 1)


def test_a_validation_that_resuming_skips_is_named(tmp_path, straight):
    config = write_config(tmp_path / "killed.yaml", callbacks=[kill("SIGKILL", 16, where="validation")], every=4)
    codes, _ = fit(tmp_path / "run", config)
    assert codes == [-9]
    codes, log = fit(tmp_path / "run", write_config(tmp_path / "plain.yaml", every=4))
    assert codes == [0], log
    assert "before the validation after step 16 had ended" in " ".join(log.split())
    assert_same_bits(final_state(tmp_path / "run"), straight(1))
    assert set(steps_of(tmp_path / "run", "val/loss")) == {7, 23}


def test_a_damaged_last_checkpoint_is_an_error_that_names_another(tmp_path):
    config = write_config(tmp_path / "config.yaml", max_steps=6)
    codes, log = fit(tmp_path / "run", config, resume=False)
    assert codes == [0], log
    folder = tmp_path / "run" / "runs" / "run" / "checkpoints"
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.ckpt").write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    codes, log = fit(tmp_path / "run", config)
    assert codes == [1]
    assert "smoothscore: error: The checkpoint" in log
    assert "last.ckpt cannot be read (its bytes differ" in log
    assert "epoch=0-step=6.ckpt" in log.split("Another one of this run is")[1]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "rank"), [("SIGKILL", 1), ("SIGTERM", 1)])
def test_two_processes(tmp_path, straight, tally, name, rank):
    assert_same_bits(killed_and_resumed(tmp_path / "run", name, 13, processes=2, rank=rank), straight(2))
    note(tally, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_step(tmp_path, straight, tally, name, step, processes):
    rank = step % processes  # in turn; -1 would be all of them
    resumed = killed_and_resumed(tmp_path / "run", name, step, processes=processes, rank=rank)
    assert_same_bits(resumed, straight(processes))
    note(tally, name, processes)
