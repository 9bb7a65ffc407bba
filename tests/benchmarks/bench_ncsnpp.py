"""NCSN++ forward and backward against plain forms of the same network, interleaved in one process.

    python tests/benchmarks/bench_ncsnpp.py [--nf 32] [--blocks 4] [--batch 8] [--repeat 5] [--bf16]

Peers, written anew in tests/oracle/ncsnpp.py, with the same weights: "slicing" resizes by padding and slicing and
attends by einsum, as score_sde does; "grouped" resizes by grouped convolution, as the SongUNet of EDM does. The bound
is the network's FLOPs at the rate of a 3×3 convolution of its widest layer, forward and backward. Memory is what
autograd keeps between the passes.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smoothscore.networks import NCSNpp

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.oracle import ncsnpp as plain


def grouped_shrink(x: Tensor) -> Tensor:
    kernel = plain.fir().to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def grouped_enlarge(x: Tensor) -> Tensor:
    kernel = plain.fir(4.0).to(x).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def peer(network: NCSNpp, *, grouped: bool, **options: object) -> nn.Module:
    made = plain.PlainNCSNpp(**options)  # type: ignore[arg-type]
    if grouped:
        swap = {plain.shrink: grouped_shrink, plain.enlarge: grouped_enlarge}
        for module in made.modules():
            if isinstance(module, plain.ResnetBlock) and module.resize:
                module.resize = swap[module.resize]
    return made


def kept_bytes(network: nn.Module, x: Tensor, sigma: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(x, sigma)
    del out
    return sum(storages.values())


def rate(channels: int, size: int, batch: int) -> float:
    """FLOP/s of a 3×3 convolution, forward and backward."""
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        layer(x).sum().backward()
        seconds.append(time.perf_counter() - start)
    return 3 * 2 * batch * size**2 * channels**2 * 9 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nf", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    options = {
        "image_size": 32,
        "nf": args.nf,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": args.blocks,
        "attn_resolutions": (16,),
        "dropout": 0.1,
    }
    ours = NCSNpp(**options)  # type: ignore[arg-type]
    networks: dict[str, nn.Module] = {
        "ours": ours,
        "slicing": peer(ours, grouped=False, **options),
        "grouped": peer(ours, grouped=True, **options),
        "ours, blind": NCSNpp(**options, conditioned=False),  # type: ignore[arg-type]
        "ours, activations computed again": NCSNpp(**options, checkpoint_activations=True),  # type: ignore[arg-type]
    }
    x, sigma = torch.rand(args.batch, 3, 32, 32), torch.full((args.batch,), 0.5)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with FlopCounterMode(display=False) as counter:
        ours(x, sigma).sum().backward()
    flops = counter.get_total_flops()
    print(f"{sum(p.numel() for p in ours.parameters()):,} parameters, "
          f"{flops / args.batch / 1e9:.2f} GFLOP per image forward and backward")  # fmt: skip

    def step(network: nn.Module) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                out = network(x, sigma)
            out.float().square().mean().backward()

        return run

    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(args.repeat + 1):
        for name, network in networks.items():
            run = step(network)
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    bound = flops / rate(2 * args.nf, 16, args.batch)
    base = median(seconds["ours"])
    for name, network in networks.items():
        took = median(seconds[name])
        print(f"  {name:<34} {1e3 * took:8.1f} ms   {took / base:5.2f} × ours   {bound / took:5.0%} of the bound   "
              f"{kept_bytes(network, x, sigma) / 2**20:7.1f} MiB kept")  # fmt: skip


if __name__ == "__main__":
    main()
