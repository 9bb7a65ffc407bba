"""A trap that hostile files try to spring."""

import os
import sys

import pytest


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder with a module that leaves a trace when it is imported, and a command that leaves one when it is run."""
    place = tmp_path / "place"
    place.mkdir()
    trace = tmp_path / "trace"
    (place / "evil.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from smoothscore.networks import UNet\nfrom smoothscore.modules import NoiseConditioned\n"
        "class Network(UNet): pass\nclass Module(NoiseConditioned): pass\ndef optimizer(parameters): pass\n"
    )
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(place)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    before = {path for path in tmp_path.rglob("*") if path.name != "__pycache__"}
    yield Trap(place, trace)
    assert not trace.exists()
    assert "evil" not in sys.modules
    assert before <= set(tmp_path.rglob("*"))
    assert not (tmp_path / "escaped.png").exists()


class Trap:
    def __init__(self, place, trace):
        self.place, self.command = place, f"touch {trace}"

    @property
    def gadget(self):
        """What runs the command when it is unpickled."""
        return Gadget(self.command)


class Gadget:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)
