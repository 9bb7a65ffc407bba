"""What concerns one process ends well on all: a job that is queued again, a loss that is NaN."""

import json
import os
import signal

import pytest

from smoothscore.modules.checkpoint import read_checkpoint
from tests.robustness.fits import STEPS, assert_same_bits, final_state, fit, kill, write_config

pytestmark = pytest.mark.distributed


def test_slurm_queues_the_job_again_once_and_it_goes_on_bit_for_bit(tmp_path, tally):
    place = tmp_path / "bin"
    place.mkdir()
    (place / "scontrol").write_text(
        f"#!/bin/sh\ntest -f {tmp_path}/run/runs/run/checkpoints/last.ckpt && echo $@ >> {tmp_path}/calls\n"
    )
    (place / "scontrol").chmod(0o755)
    env = {"PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    config = write_config(tmp_path / "killed.yaml", callbacks=[kill("SIGUSR1", 5, rank=1)], max_steps=9)
    codes, log = fit(tmp_path / "run", config, processes=2, env=env)
    assert codes == [128 + signal.SIGUSR1] * 2, log
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"
    plain = write_config(tmp_path / "plain.yaml", max_steps=9)
    for name in ("run", "straight"):
        codes, log = fit(tmp_path / name, plain, processes=2, env=env)
        assert codes == [0, 0], log
    assert_same_bits(final_state(tmp_path / "run"), final_state(tmp_path / "straight"))
    tally("SIGUSR1 in a SLURM job of 2 processes: queued again, equal to a straight run bit for bit", survived=1)


def bad_batches(folder):
    return {path.name: json.loads(path.read_text()) for path in (folder / "runs" / "run").glob("bad_batches/*.json")}


def test_nan_on_one_process_stops_all(tmp_path, tally):
    config = write_config(tmp_path / "config.yaml", model="tests.robustness.fits.Spoiled")
    codes, log = fit(tmp_path / "run", config, processes=2, env={"SMOOTHSCORE_TEST_SPOIL": "10:1"})
    assert codes == [1, 1], log
    assert "LossGuard: stopped after step" in log
    assert len(bad_batches(tmp_path / "run")["step-00000010-rank-1.json"]["rows"]) == 8
    kept = read_checkpoint(tmp_path / "run" / "runs" / "run" / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == 9
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())
    tally("a NaN loss on one of 2 processes: all stop", detected=1)


def test_nan_on_one_process_is_skipped_on_all(tmp_path, tally):
    config = write_config(tmp_path / "config.yaml", model="tests.robustness.fits.Spoiled")
    more = ["--loss_guard.action", "skip"]
    codes, log = fit(tmp_path / "run", config, processes=2, env={"SMOOTHSCORE_TEST_SPOIL": "10:1"}, more=more)
    assert codes == [0, 0], log
    assert list(bad_batches(tmp_path / "run")) == ["step-00000010-rank-1.json"]
    state = final_state(tmp_path / "run")
    assert state["global_step"] == STEPS
    assert all(weight.isfinite().all() for weight in state["state_dict"].values())
    assert {float(moments["step"]) for moments in state["optimizer_states"][0]["state"].values()} == {STEPS - 1.0}
    tally("a NaN loss on one of 2 processes: skipped on all", survived=1)
