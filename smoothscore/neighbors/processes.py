"""Processes that work together on one cache folder: who does which part, without waiting in collectives."""

import socket
import uuid
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from tqdm import tqdm

from smoothscore.errors import UserError


class Group(NamedTuple):
    """One of the processes that share a folder.

    Attributes:
        rank: Its number.
        size: How many there are.
        first_of_host: Whether it is the lowest of its machine, which does what a machine has to do once.
    """

    rank: int = 0
    size: int = 1
    first_of_host: bool = True


ALONE = Group()


def running_group(folder: Path) -> Group:
    """Return this process's place among the processes of ``torch.distributed`` that see a folder.

    All of them have to call it. Where machines have each a folder of their own under that name, the processes of a
    machine are a group, and each machine does all of the work.

    Raises:
        UserError: If the folder cannot be written.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    rank, token = dist.get_rank(), [f".seen-{uuid.uuid4().hex}", ""]
    if rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / token[0]).touch()
        except OSError as error:  # told to all: a process that raised alone would leave the others waiting
            token[1] = str(error)
    dist.broadcast_object_list(token)
    if token[1]:
        raise UserError(f"the cache {folder} cannot be used ({token[1]}): choose another `cache_dir`.")
    answers: list[tuple[str, bool]] = [("", False)] * dist.get_world_size()
    dist.all_gather_object(answers, (socket.gethostname(), (folder / token[0]).exists()))
    if rank == 0:
        (folder / token[0]).unlink(missing_ok=True)
    hosts = [host for host, _ in answers]
    mates = [other for other, host in enumerate(hosts) if host == hosts[rank]]
    first = mates[0] == rank
    if all(seen for _, seen in answers):
        return Group(rank, len(answers), first)
    if first:
        tqdm.write(f"{hosts[rank]}: {folder} is not one folder for all machines, so each builds its neighbor table.")
    return Group(mates.index(rank), len(mates), first)
