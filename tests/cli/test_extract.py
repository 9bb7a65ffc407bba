"""`smoothscore extract` as an auditor meets it: any source of samples, resume, decisions, and errors by name."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.data import resumable as resumable_module
from smoothscore.functional import extract

ROOT = Path(__file__).parents[2]
FAST = ROOT / "configs" / "experiment" / "emoji_fast.yaml"
DATA = ["--data=Emoji", "--data.image_size=16", "--data.num_train=300"]
QUICK = ["--extractor=Pixels", "--quantile=0.5", "--neighbors=20"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planted():
    """60 held-out images, of which 20 are replaced by noisy copies; 8 of these copy one image."""
    data = Emoji(image_size=16, num_train=300)
    generator = torch.Generator().manual_seed(0)
    samples = data.test.pixels[:60].clone()
    rows = torch.cat([torch.arange(100, 112), torch.full((8,), 7)])
    noise = 4 * torch.randn(20, 3, 16, 16, generator=generator)
    samples[:20] = (data.train.pixels[rows] + noise).clamp(0, 255).round().to(torch.uint8)
    np.save("samples.npy", samples.numpy())
    return samples, rows, data.train.pixels


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def summary(folder):
    return json.loads((Path(folder) / "extraction.json").read_text())


def error_of(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        main(["extract", *map(str, args)])
    assert exit_.value.code not in (0, None)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def test_planted_copies_are_found_grouped_and_counted(planted, capsys):
    samples, _, train = planted
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=a"])
    pairs = table("a/pairs.csv")
    flagged = [int(pair["sample"]) for pair in pairs if pair["flagged"] == "True"]
    assert set(range(20)) <= set(flagged)
    assert len(flagged) < 30
    assert [int(pair["train"]) for pair in pairs[:8]] == [7] * 8  # the most-copied image stands first
    expected = extract(
        samples,
        train,
        quantile=0.5,
        neighbors=20,
        featurize=lambda x: x.flatten(1).float() / (255 if x.dtype == torch.uint8 else 1),
    )
    assert sorted(flagged) == expected.flagged.nonzero().flatten().tolist()
    for pair in pairs:
        assert float(pair["score"]) == pytest.approx(float(expected.score[int(pair["sample"])]), rel=1e-5)
    count = summary("a")["count"]
    assert count["copies"] == len(flagged)
    assert 7 in count["left_out"]
    assert count["without"] <= len(flagged) - 8
    assert count["interval"][0] < count["share"] < count["interval"][1]
    groups = table("a/training_images.csv")
    assert (groups[0]["train"], groups[0]["copies"]) == ("7", "8")
    assert Path("a/review.html").stat().st_size > 10_000
    assert {path.name for path in Path("a/grids").iterdir()} == {"pairs-01.png", "most-copied.png"}
    printed = capsys.readouterr().out
    assert f"{len(flagged)} of 60 samples" in printed
    assert "8 samples match training image 7" in printed


def test_a_folder_an_array_and_any_data_give_the_same_answer(planted):
    samples, _, train = planted
    Path("pngs").mkdir()
    for i, image in enumerate(samples):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"pngs/{i:03d}.png")
    np.save("train.npy", train.permute(0, 2, 3, 1).numpy())
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=a"])
    main(["extract", "pngs", "--train=train.npy", *QUICK, "--out=b"])
    one, other = table("a/pairs.csv"), table("b/pairs.csv")
    assert other[0]["sample_name"].endswith(".png")
    for pair in (*one, *other):
        del pair["sample_name"]
    assert one == other


def test_killed_halfway_it_goes_on_and_comes_to_the_same(planted, monkeypatch, capsys):
    monkeypatch.setattr("smoothscore.report.audit._SAMPLES", 16)
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=straight"])
    note = resumable_module._note
    calls = []

    def dying(folder, parts, done):
        note(folder, parts, done)
        calls.append(done)
        if done == 32:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable_module, "_note", dying)
    with pytest.raises(KeyboardInterrupt):
        main(["extract", "samples.npy", *DATA, *QUICK, "--out=killed"])
    calls.clear()
    monkeypatch.setattr(resumable_module, "_note", lambda *args: (calls.append(args[2]), note(*args)))
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=killed"])
    assert calls[:2] == [48, 60]
    assert table("straight/pairs.csv") == table("killed/pairs.csv")
    np.save("samples.npy", planted[0].flip(0).numpy())
    assert "stale: it holds work for other samples" in error_of(capsys, "samples.npy", *DATA, *QUICK, "--out=killed")
    np.save("samples.npy", planted[0].numpy())
    printed = error_of(capsys, "samples.npy", *DATA, *QUICK, "--neighbors=10", "--out=killed")
    assert "work for other neighbors" in printed


def decide(out, kinds, **changes):
    audit = summary(out)["audit"]
    rows = [pair["sample"] for pair in audit["pairs"]]
    content = {"format": "smoothscore decisions 1", "audit": audit["key"],
               "decisions": {str(row): kind for row, kind in zip(rows, kinds, strict=False)}}  # fmt: skip
    Path("decisions.json").write_text(json.dumps({**content, **changes}))
    return rows


def test_decisions_become_the_final_counts(planted, capsys):
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=a"])
    flagged = summary("a")["count"]["copies"]
    rows = decide("a", ["accept"] * 8 + ["reject"] * 4 + ["accept"] * 2 + ["skip"])
    main(["extract", "--decisions=decisions.json", "--out=a"])
    final = json.loads(Path("a/final.json").read_text())
    assert final["decisions"] == {"accept": 10, "reject": 4, "skip": 1, "undecided": flagged - 15}
    assert final["count"]["copies"] == 10
    assert final["count"]["without"] == 2  # the eight copies of one image are left out
    assert final["count_at_most"]["copies"] == flagged - 4
    accepted = table("a/final.csv")
    assert [int(pair["sample"]) for pair in accepted] == rows[:8] + rows[12:14]
    assert {pair["decision"] for pair in accepted} == {"accept"}
    assert "10 of 60 samples (16.67 %" in capsys.readouterr().out


def test_wrong_decisions_are_refused(planted, capsys):
    main(["extract", "samples.npy", *DATA, *QUICK, "--out=a"])
    again = ["--decisions=decisions.json", "--out=a"]
    decide("a", ["accept"], audit="f" * 64)
    assert "belongs to another audit" in error_of(capsys, *again)
    decide("a", ["maybe"])
    assert '"maybe"' in error_of(capsys, *again)
    decide("a", ["accept"], decisions={"59999": "accept"})
    assert "sample 59999" in error_of(capsys, *again)
    Path("decisions.json").write_text("{}")
    assert "no decisions file" in error_of(capsys, *again)
    assert "does not exist" in error_of(capsys, "--decisions=nowhere.json", "--out=a")
    assert "There is no" in error_of(capsys, "--decisions=decisions.json", "--out=elsewhere")


def test_a_checkpoint_draws_its_own_samples_and_brings_its_data(capsys):
    main(["fit", "--config", str(FAST), "--trainer.max_steps=2", "--trainer.enable_progress_bar=false"])
    capsys.readouterr()
    checkpoint = "runs/emoji_fast/version_0/checkpoints/last.ckpt"
    command = ["extract", checkpoint, "--num_samples=6", "--batch_size=4", "--extractor=null", "--quantile=1"]
    main([*command, "--out=a"])
    printed = capsys.readouterr().out
    assert "samples: 6" in printed
    assert "training images: 64" in printed
    assert "candidates by pixels alone: 6" in printed
    drawn = np.load("a/state/samples/images.npy")
    assert drawn.shape == (6, 3, 8, 8)
    main([*command, "--out=b", "--batch_size=3"])  # samples do not depend on their batch
    assert np.allclose(drawn, np.load("b/state/samples/images.npy"), atol=1e-4)
    assert "other seed" in error_of(capsys, *command[1:], "--seed=1", "--out=a")


def bad_inputs():
    np.save("nan.npy", np.full((4, 3, 16, 16), np.nan, np.float32))
    np.save("small.npy", np.zeros((4, 3, 8, 8), np.uint8))
    np.save("good.npy", np.random.default_rng(0).integers(0, 255, (9, 3, 16, 16), np.uint8))
    np.save("one.npy", np.zeros((1, 3, 16, 16), np.uint8))
    Path("empty").mkdir()
    Path("mixed").mkdir()
    for side in (16, 12):
        Image.new("RGB", (side, side)).save(f"mixed/{side}.png")


@pytest.mark.parametrize(
    ("args", "culprit"),
    [
        (["empty", "--train=good.npy"], "holds no image file"),
        (["mixed", "--train=good.npy"], "16.png is 16×16, but 12×12"),
        (["nan.npy", "--train=good.npy"], "Row 0 of nan.npy holds NaN"),
        (["small.npy", "--train=good.npy"], "small.npy has rows of shape [3, 8, 8]"),
        (["good.npy", "--train=one.npy"], "at least 3 needed"),
        (["good.npy"], "name the training images with --data or with --train"),
        (["good.npy", "--train=good.npy", "--data=Emoji"], "not both"),
        (["--train=good.npy"], "No samples are given"),
        (["good.npy", "--train=good.npy", "--quantile=0"], "quantile is 0"),
        (["good.npy", "--train=good.npy", "--pairs=0"], "--pairs is 0"),
        (["nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["good.npy", "--train=good.npy", "--out=good.npy"], "--out good.npy is a file"),
    ],
)
def test_bad_input_is_named(capsys, args, culprit):
    bad_inputs()
    assert culprit in error_of(capsys, *args, "--extractor=Pixels")
