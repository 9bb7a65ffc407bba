"""The Jacobian of the training set's score, in closed form: low rank plus a multiple of the identity.

With every center's σ*_j held fixed, g_j = (μ_j − x)/σ*_j² and ḡ = Σ_j w_j g_j,

    J = (1/T) Σ_j w_j (g_j − ḡ)(g_j − ḡ)ᵀ − κ I,  κ = Σ_j w_j/σ*_j²,  λ_max(J) ≤ (d/T − 1) κ.

No autograd: a product with J is two products with the contending centers. Source: arXiv 2601.19285, Sec. A.5.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query
from smoothscore.errors import UserError
from smoothscore.score.groups import Group
from smoothscore.score.lanczos import dominant_eigenpairs
from smoothscore.score.radial import Gaussian, PowerLaw, Radial, check_dim, check_positive, per_point
from smoothscore.score.solver import Solver

Sigma = float | Tensor | Literal["nearest"] | None


class Eigenpair(NamedTuple):
    """The eigenvalue of largest size, with its sign, and a unit eigenvector."""

    value: Tensor  # [B]
    vector: Tensor  # [B, *S]


def jacobian_vector_product(
    x: Tensor, v: Tensor, data: Tensor, temperature: float | Tensor, *, sigma: Sigma = None
) -> Tensor:
    """Multiply the Jacobian of the tempered score at x by v.

    J v = (1/T) (Σ_j w_j g_j (g_j·v) − ḡ (ḡ·v)) − κ v

    Args:
        x: points [B, *S].
        v: directions [B, *S].
        data: training images [M, *S], float, or uint8 meaning value/255.
        temperature: T > 0, a float (inf too) or [B].
        sigma: one noise level for all centers instead of each center's own σ*_j: a float, [B], or "nearest" for
            σ* of the nearest center. With T = 1 this is the conditioned score's Jacobian.

    Returns:
        J v [B, *S], in x's type.

    Raises:
        UserError: shapes that do not fit, T ≤ 0 or sigma ≤ 0, images of a single value, x
            exactly on a center (the last two unless sigma is a number).

    Source: arXiv 2601.19285, Sec. A.5.
    """
    if v.shape != x.shape:
        raise UserError(f"v has shape {list(v.shape)}, but x has shape {list(x.shape)}: they must be equal.")
    return Linearization(x, data, temperature, sigma=sigma).apply(v)


def kappa(x: Tensor, data: Tensor, temperature: float | Tensor, *, sigma: Sigma = None) -> Tensor:
    """The contraction κ(T) = Σ_j w_j/σ*_j² of the score at x, float32 [B]; arguments as in `jacobian_vector_product`.

    Source: arXiv 2601.19285, Sec. A.5.
    """
    return Linearization(x, data, temperature, sigma=sigma).kappa.float()


def spectral_radius(x: Tensor, data: Tensor, temperature: float | Tensor, *, sigma: Sigma = None) -> Tensor:
    """The largest size of an eigenvalue of J at x, float32 [B]; arguments as in `jacobian_vector_product`.

    Source: arXiv 2601.19285, Sec. B.2.4.
    """
    return dominant_eigenpair(x, data, temperature, sigma=sigma).value.abs()


def dominant_eigenpair(x: Tensor, data: Tensor, temperature: float | Tensor, *, sigma: Sigma = None) -> Eigenpair:
    """The eigenvalue of J of largest size, with its sign, and its eigenvector; as for `jacobian_vector_product`.

    Source: arXiv 2601.19285, Sec. B.2.4.
    """
    return Linearization(x, data, temperature, sigma=sigma).dominant()


class Linearization:
    """The score's Jacobian at B points, for repeated use; arguments as in `jacobian_vector_product`.

    It holds the weights of all contenders in float64, up to 8·B·M bytes at high T.
    """

    @torch.no_grad()
    def __init__(
        self,
        x: Tensor,
        data: Tensor,
        temperature: float | Tensor,
        *,
        sigma: Sigma = None,
        memory_budget: int = 2**28,
    ) -> None:
        self._x = x
        centers = Centers(data, memory_budget=memory_budget)
        self._temperature = per_point(temperature, x, "temperature")
        check_positive(self._temperature, "temperature")
        self._sigma: Tensor | str | None
        if sigma is None:
            check_dim(centers.dim)
            self._sigma = None
        elif isinstance(sigma, str):
            if sigma != "nearest":
                raise UserError(f'sigma is "{sigma}": give a noise level, one per point, "nearest" or None.')
            self._sigma = sigma
        else:
            self._sigma = per_point(sigma, x, "sigma")
            check_positive(self._sigma, "sigma")
        self._operators: list[_Operator] = []
        size = centers.query_rows(bytes_per_pair=8)
        for start in range(0, len(x), size):
            self._add_block(centers, slice(start, start + size))
        self.kappa = torch.empty(len(x), dtype=torch.float64, device=x.device)  # [B]
        for operator in self._operators:
            self.kappa[operator.rows] = operator.kappa.squeeze(1)

    @torch.no_grad()
    def apply(self, v: Tensor) -> Tensor:
        """J v for directions v [B, *S], in x's type."""
        flat = v.flatten(1).double()
        result = torch.empty_like(flat)
        for operator in self._operators:
            result[operator.rows] = operator(flat[operator.rows])
        return self._like_x(result)

    @torch.no_grad()
    def dominant(self) -> Eigenpair:
        """The eigenvalue of largest size, float32 [B], and a unit eigenvector [B, *S]."""
        # any start will do; this one is the same every time, on every device
        start = torch.randn(self._x.flatten(1).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        start = start.to(self._x.device)
        value, vector = torch.empty_like(self.kappa), torch.empty_like(start)
        for operator in self._operators:
            value[operator.rows], vector[operator.rows] = dominant_eigenpairs(operator, start[operator.rows])
        return Eigenpair(value.float(), self._like_x(vector))

    def _add_block(self, centers: Centers, block: slice) -> None:
        query, temperature = centers.query(self._x[block]), self._temperature[block]
        sigma = self._sigma[block] if isinstance(self._sigma, Tensor) else None

        def radial_at(query: Query, value: Tensor) -> Radial:
            nonlocal sigma
            if sigma is None:
                nearest_sq, index = centers.nearest_among(query, value, 1)
                hit = (nearest_sq == 0).squeeze(1).nonzero()
                if len(hit):
                    raise UserError(
                        f"Row {block.start + int(hit[0])} of x lies exactly on row {int(index[hit[0]])} of data, where "
                        "σ* is 0 and the Jacobian infinite: move it off by a little noise, or give sigma as a number."
                    )
                if self._sigma is None:
                    return PowerLaw(centers.dim, temperature)
                sigma = (nearest_sq / centers.dim).sqrt()
            return Gaussian(sigma * temperature.sqrt())

        for group in Solver(centers, query, radial_at, need="float64").groups():
            kappa = group.total if sigma is None else sigma[group.rows] ** -2
            operator = _Operator(centers, query, group, kappa, temperature[group.rows])
            operator.rows = group.rows + block.start
            self._operators.append(operator)

    def _like_x(self, flat: Tensor) -> Tensor:
        return flat.to(self._x.dtype if self._x.is_floating_point() else torch.float32).view(self._x.shape)


class _Operator:
    """J at the points of one group: v [b, d] -> J v, float64."""

    def __init__(self, centers: Centers, query: Query, group: Group, kappa: Tensor, temperature: Tensor) -> None:
        self.rows, self.kappa, self.centers, self.columns = group.rows, kappa, centers, group.columns
        self.centered = query.point[group.rows] - centers.middle.to(kappa.device)
        self.mean = kappa * group.mean_shift(centers, query, group.share)  # ḡ, since κ v_j = w_j c_j
        contributed = kappa * group.share
        self.scale = torch.where(group.weights > 0, contributed**2 / group.weights, 0.0) / temperature  # w_j c_j²/T
        self.inverse_temperature = 1 / temperature
        held = len(self.scale[0]) * centers.dim * 8 <= centers.memory_budget // 2
        self.held = [rows.clone() for _, rows in self._chunks()] if held else None

    def __call__(self, v: Tensor) -> Tensor:
        """Two products with the contenders, a chunk of them at a time."""
        along = (self.centered * v).sum(1, keepdim=True)
        result = -self.kappa * v - self.inverse_temperature * (self.mean * v).sum(1, keepdim=True) * self.mean
        start = 0
        for rows in self.held if self.held is not None else (rows for _, rows in self._chunks()):
            amount = self.scale[:, start : start + len(rows)] * torch.addmm(-along, v, rows.T)
            result += amount @ rows - amount.sum(1, keepdim=True) * self.centered
            start += len(rows)
        return result

    def _chunks(self) -> Iterator[tuple[int, Tensor]]:
        return self.centers.chunks(self.centered.device, torch.float64, self.columns)
