"""Features out, neighbors in: every shard is checked, whoever wrote it, and every promise of the engine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smoothscore.cli import main
from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborTable, build_neighbors, export_features, extract_features, import_table
from smoothscore.neighbors.processes import Group
from smoothscore.neighbors.shards import finish_features, read_features, write_features
from tests.oracle.neighbors import neighbors_oracle

SEEN: list[float] = []  # outside the extractor, whose settings are part of the key
STOP = {"after": 10**9}


class Counted(nn.Module):
    """An extractor that notes which images it saw, and may die after some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 5)

    def forward(self, images):
        if len(SEEN) >= STOP["after"]:
            raise KeyboardInterrupt
        SEEN.extend(images.flatten(1)[:, 0].tolist())
        return self.linear(images.flatten(1))


@pytest.fixture(autouse=True)
def fresh():
    SEEN.clear()
    STOP["after"] = 10**9


@pytest.fixture
def images():
    return torch.rand(600, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    return Counted()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_shards_of_any_number_of_processes_equal_one_extraction(images, extractor, tmp_path, size):
    for rank in reversed(range(size)):
        group = Group(rank, size, rank == 0)
        write_features(images, extractor, tmp_path / "f", "key", group=group, batch_size=7, progress=False)
    assert sorted(SEEN) == sorted(images[:, 0, 0, 0].tolist())  # every image once
    finish_features(tmp_path / "f", 600, {"key": "key", "space": "Counted", "data": ""}, batch_size=7)
    assert torch.equal(read_features(tmp_path / "f").rows, extract_features(images, extractor, batch_size=7))
    names = {path.suffix for path in (tmp_path / "f").iterdir()}
    assert names == {".npy", ".json"}
    assert len(list((tmp_path / "f").glob("*.npy"))) == 86


def test_a_killed_extraction_goes_on(images, extractor, tmp_path):
    options = {"batch_size": 10, "progress": False}
    STOP["after"] = 230
    with pytest.raises(KeyboardInterrupt):
        export_features(images, tmp_path / "f", extractor=extractor, **options)
    with pytest.raises(UserError, match="there is no"):
        read_features(tmp_path / "f")
    with pytest.raises(UserError, match="another extractor"):
        export_features(images + 1, tmp_path / "f", extractor=extractor, **options)
    STOP["after"] = 10**9
    export_features(images, tmp_path / "f", extractor=extractor, **options)
    assert sorted(SEEN) == sorted(images[:, 0, 0, 0].tolist())  # each once, before or after
    assert torch.equal(read_features(tmp_path / "f").rows, extract_features(images, extractor, **options))


def test_the_builder_waits_for_others_and_names_those_that_do_not_come(images, extractor, tmp_path):
    write_features(images, extractor, tmp_path / "f", "key", group=Group(0, 2, True), batch_size=50, progress=False)
    with pytest.raises(UserError, match="lacks 6 of 12 shards"):
        finish_features(tmp_path / "f", 600, {}, batch_size=50, patience=0.2)


def test_every_damage_of_a_shard_is_seen(images, extractor, tmp_path):
    folder = tmp_path / "f"
    export_features(images, folder, extractor=extractor, batch_size=300, progress=False)
    generator = np.random.default_rng(0)
    files = sorted(folder.iterdir())
    assert len(files) == 3
    for file in files:
        whole = file.read_bytes()
        for at in {0, len(whole) - 1, *generator.integers(len(whole), size=20).tolist()}:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(UserError, match=file.name):
                read_features(folder)
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=file.name):
            read_features(folder)
        file.write_bytes(whole)
    assert len(read_features(folder).rows) == 600


def test_a_folder_of_something_else_is_left_alone(images, extractor, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        export_features(images, tmp_path, extractor=extractor, progress=False)
    build_neighbors(images, 3).save(tmp_path / "table")
    with pytest.raises(UserError, match="holds no features"):
        read_features(tmp_path / "table")


class Engine:
    """What another engine would leave behind: files of neighbors in parts."""

    def __init__(self, folder: Path, rows: torch.Tensor, k: int) -> None:
        self.folder = folder
        indices, distances = neighbors_oracle(rows, k + 1)
        self.indices, self.distances = indices[:, 1:].numpy().copy(), distances[:, 1:].float().numpy().copy()

    def save(self) -> tuple[list[Path], list[Path]]:
        names = []
        for name, array in (("I", self.indices), ("D", self.distances)):
            parts = np.array_split(array, [len(array) // 3])
            names.append([self.folder / f"{name}{part}.npy" for part in range(2)])
            for path, part in zip(names[-1], parts, strict=True):
                np.save(path, part)
        return names[0], names[1]


@pytest.fixture
def exported(images, extractor, tmp_path):
    export_features(images, tmp_path / "f", extractor=extractor, batch_size=50, progress=False)
    return tmp_path / "f"


@pytest.fixture
def engine(images, extractor, tmp_path):
    return Engine(tmp_path, extract_features(images, extractor, batch_size=50, progress=False), 9)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("with_self", [True, False])
def test_round_trip_through_an_engine_is_the_exact_table(images, extractor, exported, engine, squared, with_self):
    if with_self:  # somewhere in the row, as engines do it among copies
        ids = np.arange(600)[:, None]
        engine.indices = np.concatenate([ids, engine.indices], 1)
        engine.distances = np.concatenate([np.zeros((600, 1), np.float32), engine.distances], 1)
    if squared:
        engine.distances **= 2
    indices, distances = engine.save()
    table = import_table(exported, indices, distances, squared=squared, with_self=with_self, engine="cuvs")
    expected = build_neighbors(images, 10, extractor=extractor, batch_size=50)
    assert torch.equal(table.indices, expected.indices)
    torch.testing.assert_close(table.distances, expected.distances, rtol=1e-6, atol=0)
    assert (table.space, table.data_digest) == (expected.space, expected.data_digest)
    assert table.accuracy == ("cuvs", 1.0, 600, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.indices.__setitem__((17, 3), 600), r"row 17 .*outside 0\.\.599"),
        (lambda e: e.indices.__setitem__((17, 3), -1), "row 17 .*outside"),
        (lambda e: e.indices.__setitem__((401, 3), 401), "row 401 .*itself.*with_self"),
        (lambda e: e.indices.__setitem__((5, 3), e.indices[5, 2]), "row 5 .*twice"),
        (lambda e: e.distances.__setitem__((9, 1), 0), "row 9 .*unsorted"),
        (lambda e: e.distances.__setitem__((9, 1), np.nan), "row 9 .*not finite"),
        (lambda e: e.distances.__setitem__((9, 0), -1), "row 9 .*negative"),
        (lambda e: setattr(e, "distances", e.distances**2), "plain.*they are squared: say --squared true"),
        (lambda e: setattr(e, "distances", e.distances * 3), "other features"),
        (lambda e: setattr(e, "indices", e.indices.astype(np.int32)), "int32.*int64"),
        (lambda e: setattr(e, "distances", e.distances.astype(np.float64)), "float64.*float32"),
        (lambda e: setattr(e, "indices", e.indices[:500]), "500 rows.*600 features"),
        (lambda e: setattr(e, "indices", e.indices[:, :4]), "match"),
        (lambda e: setattr(e, "indices", (e.indices + 13) % 600), "itself|other features"),
    ],
)
def test_broken_promises_are_named(exported, engine, change, message):
    change(engine)
    indices, distances = engine.save()
    with pytest.raises(UserError, match=message):
        import_table(exported, indices, distances, squared=False)


def test_a_poor_search_is_refused_by_its_recall(exported, images, extractor, engine, tmp_path):
    far = Engine(tmp_path, extract_features(images, extractor, batch_size=50, progress=False), 18)
    engine.indices, engine.distances = far.indices[:, ::2].copy(), far.distances[:, ::2].copy()
    indices, distances = engine.save()
    with pytest.raises(UserError, match=r"recall of 0\.\d+ on 600 rows.*recall_floor = 0\.95"):
        import_table(exported, indices, distances, squared=False)
    table = import_table(exported, indices, distances, squared=False, recall_floor=0.3)
    assert table.accuracy.recall == pytest.approx(5 / 9, abs=1e-3)


def test_more_candidates_of_a_rough_engine_are_ranked_anew(exported, images, extractor, engine, tmp_path):
    wide = Engine(tmp_path, extract_features(images, extractor, batch_size=50, progress=False), 40)
    noise = 1 + 0.1 * np.random.default_rng(0).standard_normal(wide.distances.shape).astype(np.float32)
    order = (wide.distances * noise).argsort(1)
    wide.indices = np.take_along_axis(wide.indices, order, 1)
    wide.distances = np.take_along_axis(wide.distances * noise, order, 1)
    indices, distances = wide.save()
    table = import_table(exported, indices, distances, squared=False, k=10)
    expected = build_neighbors(images, 10, extractor=extractor, batch_size=50)
    assert (table.indices == expected.indices).float().mean() > 0.995
    assert table.k == 10
    with pytest.raises(UserError, match="k = 42 cannot be kept of 41"):
        import_table(exported, indices, distances, squared=False, k=42)


def test_the_command_line_goes_all_the_way(tmp_path, monkeypatch, capsys):
    """Export, another engine, import, and training data that take the imported table."""
    from smoothscore.data import Emoji

    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    data = ["--data", "Emoji", "--data.num_train", "200", "--data.num_test", "50", "--data.image_size", "8"]
    main(["neighbors", "export-features", *data, "--out", str(tmp_path / "f")])
    indices, distances = (
        list(map(str, names)) for names in Engine(tmp_path, read_features(tmp_path / "f").rows, 6).save()
    )
    files = ["--features", str(tmp_path / "f"), "--indices", *indices, "--distances", *distances]
    main(["neighbors", "import", *files, "--squared", "false", "--out", str(tmp_path / "t")])
    assert "recall 1.0000 on 200 rows compared with all others (imported)" in capsys.readouterr().out
    module = Emoji(num_train=200, num_test=50, image_size=8, k=5, table_path=str(tmp_path / "t"))
    module.setup()
    built = Emoji(num_train=200, num_test=50, image_size=8, k=5)
    built.setup()
    assert torch.equal(module.table.indices, built.table.indices)
    assert json.loads((tmp_path / "t" / "manifest.json").read_text())["meta"]["k"] == 7
    with pytest.raises(UserError, match="stale"):
        Emoji(num_train=200, num_test=50, image_size=8, k=5, table_path=str(tmp_path / "t"), split_seed=1).setup()
    with pytest.raises(SystemExit):
        main(["neighbors", "import", *files, "--squared", "true", "--out", str(tmp_path / "u")])
    assert "say --squared false" in capsys.readouterr().err
    assert NeighborTable.load(tmp_path / "t", k=3).k == 3
