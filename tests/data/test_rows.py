import pytest
import torch

from smoothscore.data.images import ImageSet, equal_reference_rows, split_rows
from smoothscore.data.rows import FixedLoader, RowStream, TrainLoader


def images(count):
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageSet(pixels, torch.arange(count) % 3)


def test_every_pass_takes_every_row_once():
    stream = RowStream(10, 4, seed=1)
    rows = torch.cat([stream.batch(step) for step in range(5)])  # 20 rows: two passes, the third batch reaches over
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_one_stream(world_size):
    whole = RowStream(11, 5, seed=2)
    parts = [RowStream(11, 5, seed=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(6):
        for rank, part in enumerate(parts):
            assert torch.equal(part.batch(step), whole.batch(step * world_size + rank))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_inside_an_epoch(num_workers):
    def loader():
        return TrainLoader(images(10), RowStream(10, 3, seed=3), epoch_steps=5, num_workers=num_workers)

    straight = loader()
    indexes = [batch.index.tolist() for _ in range(3) for batch in straight]
    assert len(indexes) == 15

    first = loader()
    list(first)
    iterator = iter(first)
    next(iterator), next(iterator)
    second = loader()
    second.load_state_dict(first.state_dict())
    resumed = [batch.index.tolist() for _ in range(2) for batch in second]
    assert resumed == indexes[7:]


def test_batch_holds_the_pixels_and_labels_of_its_rows():
    for batch in TrainLoader(images(10), RowStream(10, 4, seed=0), epoch_steps=2):
        assert batch.image.dtype == torch.uint8
        assert torch.equal(batch.image[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.label, batch.index % 3)


def test_fixed_loader_gives_each_row_to_one_process():
    rows = [
        row for rank in range(3) for batch in FixedLoader(images(10), 2, rank=rank, world_size=3) for row in batch.index
    ]
    assert sorted(int(row) for row in rows) == list(range(10))


def test_split_is_disjoint_and_fixed_by_the_seed():
    split = split_rows(images(20), num_train=9, num_test=5, seed=0)
    values = [set(part.pixels[:, 0, 0, 0].tolist()) for part in split]
    assert [len(value) for value in values] == [9, 5]
    assert not values[0] & values[1]
    again, other = split_rows(images(20), 9, 5, 0), split_rows(images(20), 9, 5, 1)
    assert torch.equal(again.train.pixels, split.train.pixels)
    assert not torch.equal(other.train.pixels, split.train.pixels)


def test_references_have_equally_many_images_per_class():
    train, test = torch.tensor([0] * 5 + [1] * 2 + [2] * 3), torch.tensor([0] * 2 + [1] * 4 + [3])
    rows_train, rows_test = equal_reference_rows(train, test)
    assert sorted(train[rows_train].tolist()) == [0, 0, 1, 1] == sorted(test[rows_test].tolist())
    assert len(set(rows_train.tolist())) == 4
