"""A Gaussian mixture whose score, moments and samples are known in closed form."""

from statistics import NormalDist

import torch
from torch import Tensor

from smoothscore.samplers.rows import per_image


class Mixture:
    """p(x) = Σ_k π_k N(x; m_k, τ² I), as a sampler's score: s(x, σ) = Σ_k w_k (m_k − x)/(τ² + σ²).

    w = softmax_k( ln π_k − ‖x − m_k‖²/(2(τ² + σ²)) ).

    Args:
        means: m [K, d], float64.
        weights: π [K], which sum to 1, float64.
        std: τ.
    """

    conditioned = True
    ignores_sigma = False

    def __init__(self, means: Tensor, weights: Tensor, std: float) -> None:
        self.means, self.weights, self.std = means, weights, std

    @classmethod
    def random(cls, components: int, dim: int, std: float, seed: int) -> "Mixture":
        """Means uniform in the unit cube, and weights in the ratio 1 : 2 : … : K."""
        generator = torch.Generator().manual_seed(seed)
        weights = torch.arange(1, components + 1, dtype=torch.float64)
        means = torch.rand(components, dim, generator=generator, dtype=torch.float64)
        return cls(means, weights / weights.sum(), std)

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Score at x [B, d] and σ (a number or [B]), in x's type."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))
        variance = per_image(self.std**2 + sigma.square(), x)
        means = self.means.to(x)
        logits = self.weights.to(x).log() - torch.cdist(x, means).square() / (2 * variance)
        return (logits.softmax(1) @ means - x) / variance

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Samples [count, d], float64."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[component] + self.std * noise

    @property
    def mean(self) -> Tensor:
        """[d]."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """τ² I + Σ_k π_k (m_k − m)(m_k − m)ᵀ, [d, d]."""
        offset = self.means - self.mean
        within = self.std**2 * torch.eye(self.means.shape[1], dtype=torch.float64)
        return within + (offset * self.weights[:, None]).T @ offset

    def errors(self, x: Tensor) -> tuple[float, float, float]:
        """How far samples [n, d] are from the mixture.

        Returns:
            ‖m̂ − m‖/√d, ‖Ĉ − C‖_F/‖C‖_F, and the mean squared distance from the nearest m_k over d τ², which is 1
            where components do not overlap.
        """
        x = x.double()
        mean = float((x.mean(0) - self.mean).square().mean().sqrt())
        covariance = float((x.T.cov() - self.covariance).norm() / self.covariance.norm())
        nearest = torch.cdist(x, self.means).amin(1)
        return mean, covariance, float(nearest.square().mean()) / (x.shape[1] * self.std**2)

    def sampling_error(self, count: int, replicates: int, quantile: float, seed: int) -> tuple[float, float]:
        """What the first two of `errors` exceed in a share 1 − `quantile` of exact draws of `count` samples."""
        generator = torch.Generator().manual_seed(seed)
        found = torch.tensor([self.errors(self.draw(count, generator))[:2] for _ in range(replicates)])
        mean, covariance = found.double().quantile(quantile, dim=0).tolist()
        return mean, covariance


def normal_quantile(share: float) -> float:
    """How many standard deviations around the mean hold a share of a normal law."""
    return NormalDist().inv_cdf((1 + share) / 2)
