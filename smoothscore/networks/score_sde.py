"""Checkpoints of score_sde_pytorch (VE, NCSN++), read into our network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoothscore.errors import UserError, why_unreadable
from smoothscore.networks.blocks import Attention, ResBlock
from smoothscore.networks.fir import FirConv
from smoothscore.networks.ncsnpp import FourierWaves, Head, NCSNpp

_RES_BLOCK = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "embed": "Dense_0", "norm2": "GroupNorm_1",
              "conv2": "Conv_1", "shortcut": "Conv_2"}  # fmt: skip
_MOST_NAMES = 8  # listed in an error


def import_score_sde(path: str | Path, network: NCSNpp, *, ema: bool = True) -> NCSNpp:
    """Fill a network with the weights of a score_sde_pytorch checkpoint.

    Its output is the score itself, h/σ, ours is F with score −F/σ: the last layers change sign, F = −h.

    Args:
        path: checkpoint_N.pth of a VE NCSN++: CIFAR-10, CelebA 64 or CelebA-HQ 256, continuous (embedding="fourier")
            or discrete (embedding="positional").
        network: built with the checkpoint's configuration; filled in place.
        ema: the averaged weights, which it samples with, or the raw ones.

    Returns:
        The same network.

    Raises:
        UserError: no such checkpoint, one that would run code when loaded, or weights that do not fit: missing,
            left over or differently shaped ones are listed.

    Source: arXiv 2011.13456; github.com/yang-song/score_sde_pytorch.
    """
    path = Path(path)
    weights = _read(path, ema=ema)
    filled: dict[str, Tensor] = {}
    wanted: set[str] = set()
    for name, source, sign in _correspondence(network):
        wanted.update(source)
        if all(key in weights for key in source):
            filled[name] = sign * torch.cat([_as_ours(key, weights[key].float()) for key in source])
    missing, left_over = sorted(wanted - weights.keys()), sorted(weights.keys() - wanted)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    different = [f"{n} {tuple(v.shape)} for {shapes[n]}" for n, v in filled.items() if tuple(v.shape) != shapes[n]]
    if missing or left_over or different:
        raise UserError(
            f"{path} does not fit this network. Missing there: {_listed(missing)}. Left over: {_listed(left_over)}. "
            f"Other shapes: {_listed(different)}. Build NCSNpp with the checkpoint's nf, ch_mult, num_res_blocks, "
            'attn_resolutions, progressive and progressive_input, and embedding="fourier" for a continuous, '
            '"positional" for a discrete one.'
        )
    network.load_state_dict(filled)
    return network


def _read(path: Path, *, ema: bool) -> dict[str, Tensor]:
    """The weights by their names in score_sde_pytorch, without the prefix of its parallel wrapper."""
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist: give a checkpoint_N.pth of score_sde_pytorch.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        raise UserError(
            f"The checkpoint {path} cannot be read ({why_unreadable(error)}): it is damaged, or no checkpoint of "
            "score_sde_pytorch."
        ) from error
    if not isinstance(content, Mapping) or not {"model", "ema"} <= content.keys():
        raise UserError(f"{path} holds no `model` and `ema`: it is no checkpoint of score_sde_pytorch.")
    weights = {name.removeprefix("module."): value for name, value in content["model"].items()}
    weights.pop("sigmas", None)
    if ema:
        # The average is a list, in the order of the parameters that are trained; the random waves are not.
        trained = [name for name, value in weights.items() if not (name.endswith(".W") and value.ndim == 1)]
        average = content["ema"]["shadow_params"]
        if len(average) != len(trained):
            raise UserError(
                f"{path} holds {len(average)} averaged weights for {len(trained)} trained ones: take ema=False."
            )
        weights.update(zip(trained, average, strict=True))
    return weights


def _correspondence(network: NCSNpp) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Our name, the names it is put together from, and the sign."""
    number = 0
    for name, layer in _in_order(network, ""):
        prefix = f"all_modules.{number}"
        sign = -1.0 if isinstance(network.get_submodule(name.rpartition(".")[0]), Head) and name.endswith("conv") else 1
        for parameter in layer.state_dict():
            yield f"{name}.{parameter}", tuple(f"{prefix}.{key}" for key in _peer_names(layer, parameter, name)), sign
        number += bool(layer.state_dict())


def _in_order(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers that are one entry of score_sde's list, in the order of both."""
    for name, child in module.named_children():
        whole = isinstance(child, ResBlock | Attention | FirConv) or not list(child.children())
        if whole:
            yield prefix + name, child
        else:
            yield from _in_order(child, f"{prefix}{name}.")


def _peer_names(layer: nn.Module, parameter: str, name: str) -> list[str]:
    part, _, kind = parameter.rpartition(".")
    if isinstance(layer, FourierWaves):
        return ["W"]
    if isinstance(layer, ResBlock):
        return [f"{_RES_BLOCK[part]}.{kind}"]
    if isinstance(layer, FirConv):
        return [f"Conv2d_0.{kind}"]
    if isinstance(layer, Attention):
        letter = {"weight": "W", "bias": "b"}[kind]
        numbers = {"qkv": (0, 1, 2), "out": (3,)}
        return [f"GroupNorm_0.{kind}"] if part == "norm" else [f"NIN_{number}.{letter}" for number in numbers[part]]
    return [f"Conv_0.{kind}"] if name.endswith("combine") else [kind]


def _as_ours(key: str, weight: Tensor) -> Tensor:
    """Its matrices over channels, [C_in, C_out], are our 1×1 convolutions, [C_out, C_in, 1, 1]."""
    return weight.T[..., None, None] if key.endswith(".W") and weight.ndim == 2 else weight


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more if names else "none"
