"""Images as noise and back by the probability flow, and what lies between two of them: for scores that are told σ."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.ode import ProbabilityFlow, dormand_prince
from smoothscore.samplers.rows import per_image
from smoothscore.samplers.watch import Counted, Score


class _Encoder(ProbabilityFlow):
    """The flow upwards, from σ_min to σ_max."""

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each try."""
        return dormand_prince(score, x, self.levels[-2], self.levels[0], rtol=self.rtol, atol=self.atol)


def encode(
    score: Score,
    images: Tensor,
    *,
    sigma_min: float,
    sigma_max: float,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    progress: bool = False,
) -> Tensor:
    """Follow the probability flow up, dx/dσ = −σ s(x, σ), from images to their latents.

    An image is taken for a state at σ_min, which leaves out what `decode` does last, σ_min² s.

    Args:
        score: (x [B, *S], sigma [B]) -> [B, *S], told σ.
        images: [B, *S], float, in [0, 1].
        sigma_min: where the flow starts.
        sigma_max: where it ends.
        rtol: of the adaptive Runge-Kutta steps, see `ProbabilityFlow`.
        atol: its absolute part.
        progress: show a bar.

    Returns:
        latents [B, *S], of noise level σ_max.

    Raises:
        UserError: unless 0 < σ_min < σ_max; and those of `Sampler.sample`.

    Warns:
        UserWarning: the score is blind.

    Source: arXiv 2011.13456, Sec. 4.3.
    """
    flow = _Encoder([sigma_min, sigma_max], method="rk45", rtol=rtol, atol=atol)
    return flow.sample(score, images.shape, [0] * len(images), start=images, progress=progress)


def decode(
    score: Score,
    latents: Tensor,
    *,
    sigma_min: float,
    sigma_max: float,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    progress: bool = False,
) -> Tensor:
    """Follow the probability flow down, from latents [B, *S] of noise level σ_max to images; see `encode`.

    Source: arXiv 2011.13456, Sec. 4.3.
    """
    flow = ProbabilityFlow([sigma_min, sigma_max], method="rk45", rtol=rtol, atol=atol)
    return flow.sample(score, latents.shape, [0] * len(latents), start=latents, progress=progress)


class Between(NamedTuple):
    """Images between two, from the one to the other."""

    share: Tensor  # [n] of the second image
    noised: Tensor  # [n, *S]
    denoised: Tensor  # [n, *S]


def interpolate(
    score: Score,
    first: Tensor,
    second: Tensor,
    *,
    sigma: float,
    sigma_min: float,
    num: int = 9,
    noise: Tensor | None = None,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Between:
    """Noise two images, mix them, and denoise every mixture with the same noise.

    x(λ) = (1−λ) μ_0 + λ μ_1 + σ ((1−λ) ε_0 + λ ε_1)/√((1−λ)² + λ²): of noise level σ at every λ.

    Args:
        score: (x, sigma) -> score, of a network or exact.
        first: μ_0 [*S], float.
        second: μ_1 [*S].
        sigma: noise level at which they are mixed.
        sigma_min: lowest level.
        num: mixtures, the two noised images included.
        noise: ε_0 and ε_1, [2, *S]; None takes those that the probability flow finds, ε_i = (encode(μ_i) − μ_i)/σ, so
            that both ends come back as they were.
        sampler: from σ down; None is the adaptive probability flow.
        seed: of the sampler's noise, the same for all mixtures.

    Raises:
        UserError: images of two shapes, num < 2, or a sampler that does not start at σ.

    Source: arXiv 2601.19285, Sec. 1 and Fig. 1 (b).
    """
    if first.shape != second.shape:
        raise UserError(f"the images have shapes {list(first.shape)} and {list(second.shape)}: give two of one shape.")
    if num < 2:
        raise UserError(f"num is {num}, but the two images themselves are already 2 mixtures.")
    if sampler is None:
        sampler = ProbabilityFlow([sigma_min, sigma], method="rk45", rtol=1e-4, atol=1e-4)
    if abs(sampler.sigma_max - sigma) > 1e-6 * sigma:
        raise UserError(
            f"the images are mixed at σ = {sigma:g}, but the sampler starts at {sampler.sigma_max:g}: give it "
            "levels that end in σ."
        )
    if noise is None:
        pair = torch.stack([first, second])
        noise = (encode(score, pair, sigma_min=sigma_min, sigma_max=sigma) - pair) / sigma
    share = torch.linspace(0, 1, num, dtype=first.dtype, device=first.device)
    own, other = per_image(1 - share, first[None]), per_image(share, first[None])
    mixed = (own * noise[0] + other * noise[1]) / (own.square() + other.square()).sqrt()
    x = own * first + other * second + sigma * mixed
    return Between(share, x, sampler.sample(score, x.shape, [seed] * num, start=x))
