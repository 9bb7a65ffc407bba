"""The nearest training image of points that move: the last full look bounds all distances until it no longer tells.

A full look at M images costs 2Md products per point. A sampler asks again after a step that changes little but how
much noise there is, so nearly all of x is known already: the centered x is a·b + V·y + ρ, with b the point of the last
full look, V the training images' leading principal directions and ρ what is left. Then, for every training image μ
with ν = Vᵀμ and rest t = ‖μ − Vν‖,

    ⟨x, μ⟩ = a ⟨b, μ⟩ + y·ν + ⟨ρ, μ⟩,  |⟨ρ, μ⟩| ≤ ‖ρ‖ t + ‖Vᵀρ‖ ‖ν‖

where ⟨b, μ⟩ is known and ν is short. That bounds ‖x − μ‖² from below at k products instead of d, and only images whose
bound is not above the distance of a candidate are measured, by direct differences in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, Nearest, Query, full_precision

_SMALL = 2048  # images up to which a full look is as cheap as a bound
_BASIS_ROWS = 1024  # images that the directions are taken from: any directions bound, good ones bound tightly
_UNIT = 2.0**-24  # float32 rounding
_MOST_MEASURED = 64  # images measured per point, on average over the batch, before a new look is cheaper
_FEW = 8  # points with no more than that many keep their look when others take a new one


class Basis(NamedTuple):
    """The training images in few numbers, all centered."""

    directions: Tensor  # V [d, k] float64, orthonormal
    short: Tensor  # [M, k + 2] float32: ν, t and ‖μ‖²


class Look(NamedTuple):
    """A full look at all training images from points b, centered."""

    point: Tensor  # b [B, d] float64
    across: Tensor  # b − V Vᵀ b, float64
    value: Tensor  # [B, M] float32, ‖μ‖² − 2⟨b, μ⟩
    slack: Tensor  # [B] float64, bound on its error


class NearestSearch:
    """Training images made ready to be searched by moving points.

    Args:
        data: training images [M, *S], float, or uint8 meaning value/255.
        rank: principal directions k; more of them make the bounds tighter and each look longer.
        memory_budget: bytes of working memory of a full look.

    Raises:
        UserError: no rows, or a row that is NaN or infinite.
    """

    def __init__(self, data: Tensor, *, rank: int = 64, memory_budget: int = 2**28) -> None:
        self.data, self.rank, self.memory_budget = data, rank, memory_budget
        self.centers = Centers(data, memory_budget=memory_budget)
        self._basis: Basis | None = None

    def to(self, device: torch.device) -> "NearestSearch":
        """This search with its images on another device, or itself."""
        if device == self.data.device:
            return self
        return NearestSearch(self.data.to(device), rank=self.rank, memory_budget=self.memory_budget)

    def track(self) -> "NearestTracker":
        """Begin to follow a batch of points."""
        return NearestTracker(self)

    @property
    def basis(self) -> Basis:
        """The short form of the images; the first use makes it, which costs about one full look."""
        if self._basis is None:
            self._basis = self._make_basis()
        return self._basis

    def _make_basis(self) -> Basis:
        centers = self.centers
        device = centers.data.device
        stride = -(-centers.count // _BASIS_ROWS)
        columns = torch.arange(0, centers.count, stride, device=device)
        sample = torch.cat([rows.clone() for _, rows in centers.chunks(device, torch.float64, columns)])
        rank = min(self.rank, *sample.shape)
        # the sample's right singular vectors, by its Gram matrix, which is smaller than its covariance
        _, vectors = torch.linalg.eigh(sample @ sample.T)
        directions = torch.linalg.qr(sample.T @ vectors[:, -rank:])[0]
        short = torch.empty(centers.count, rank + 2, device=device)
        for start, rows in centers.chunks(device, torch.float64):
            near = rows @ directions
            norm_sq = rows.square().sum(1)
            rest = (norm_sq - near.square().sum(1)).clamp_min_(0).sqrt_()
            # a little more, for the rounding of V, ν and the difference
            part = torch.cat([near, (rest + 1e-6 * norm_sq.sqrt())[:, None], norm_sq[:, None]], dim=1)
            short[start : start + len(rows)] = part
        return Basis(directions, short)


class NearestTracker:
    """Follows a batch of points, each call with the same points moved; exact at every call.

    Attributes:
        looks: full looks at all images, counted per point.
        measured: distances measured directly.
    """

    def __init__(self, search: NearestSearch) -> None:
        self.search = search
        self.looks = 0
        self.measured = 0
        self._look: Look | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Nearest:
        """The nearest training image of x [B, *S]: distance [B, 1] float32 and index [B, 1], ties to the lower index.

        Raises:
            UserError: x of another shape than the images, or not finite.
        """
        centers = self.search.centers
        if centers.count <= _SMALL:
            self.looks += len(x)
            return centers.nearest(x, 1)
        query = centers.query(x)
        if self._look is None:
            everything = torch.arange(len(x), device=x.device)
            point = query.point
            value = torch.empty(len(x), centers.count, device=x.device)
            self._look = Look(torch.empty_like(point), torch.empty_like(point), value, torch.empty_like(query.slack))
            self._distance_sq, self._index = torch.empty_like(query.offset), torch.empty_like(everything)
            self._look_from(query, everything, self._look)
        else:
            self._follow(query, self._look)
        return Nearest(self._distance_sq.sqrt().float()[:, None], self._index[:, None].clone())

    def _look_from(self, query: Query, rows: Tensor, look: Look) -> None:
        """Look at all images from some of the points, and keep what was seen."""
        centers, directions = self.search.centers, self.search.basis.directions
        for part in torch.split(rows, centers.query_rows(16)):
            seen = query.take(part)
            value = centers.screen(seen)
            distance_sq, index = centers.nearest_among(seen, value, 1)
            point = seen.point - centers.middle
            look.point[part], look.value[part], look.slack[part] = point, value, seen.slack
            look.across[part] = point - (point @ directions) @ directions.T
            self._distance_sq[part], self._index[part] = distance_sq[:, 0], index[:, 0]
        self.looks += len(rows)

    def _follow(self, query: Query, look: Look) -> None:
        """Bound all distances, measure those that may be the smallest, and look again where too many may."""
        centers = self.search.centers
        bound, slack = lower_bound(query.point - centers.middle, look, self.search.basis, centers.radius)
        size = len(bound)
        candidate = torch.cat([self._index, bound.argmin(1)])
        row = torch.arange(size, device=bound.device)
        best = centers.distance_sq(query, row.repeat(2), candidate).view(2, size).amin(0)
        reach = (best - query.offset + slack).float()
        contender = bound <= (reach + 2 * _UNIT * reach.abs())[:, None]  # the candidates are among them
        count = contender.sum(1)
        if int(count.sum()) > _MOST_MEASURED * size:
            again = count > _FEW
            self._look_from(query, again.nonzero().squeeze(1), look)
            contender &= ~again[:, None]
        row, column = contender.nonzero(as_tuple=True)
        distance_sq = centers.distance_sq(query, row, column)
        self.measured += len(row)
        least = torch.full_like(best, torch.inf).scatter_reduce_(0, row, distance_sq, "amin")
        nearest = distance_sq == least[row]
        row, column = row[nearest], column[nearest]
        lowest = torch.full_like(self._index, centers.count).scatter_reduce_(0, row, column, "amin")
        self._distance_sq = torch.where(least.isinf(), self._distance_sq, least)
        self._index = torch.where(least.isinf(), self._index, lowest)


def lower_bound(point: Tensor, look: Look, basis: Basis, radius: float) -> tuple[Tensor, Tensor]:
    """Bound ‖x − μ_j‖² − ‖x‖² from below for all images, from the last look.

    Args:
        point: x, centered, float64 [B, d].
        look: from the same points, earlier.
        basis: of the images.
        radius: the largest ‖μ_j‖, centered.

    Returns:
        bound [B, M] float32, and what it may be too high by, float64 [B].
    """
    directions, short = basis
    across = point - (point @ directions) @ directions.T
    share = (across * look.across).sum(1) / look.across.square().sum(1).clamp_min(torch.finfo(point.dtype).tiny)
    moved = torch.addcmul(point, share[:, None], look.point, value=-1)
    along = moved @ directions
    rest = moved - along @ directions.T  # not assumed to be orthogonal: ‖Vᵀρ‖ is part of the slack
    norm, length = rest.norm(dim=1), along.norm(dim=1)
    factor = torch.cat([-2 * along, -2 * norm[:, None], 1 - share[:, None]], dim=1).float()
    with full_precision(point.device):
        bound = torch.addmm(look.value * share.float()[:, None], factor, short.T)
    # every term of the sum, in float32, is rounded once when made and at most k + 4 times when added
    size = share.abs() * (radius**2 + 2 * look.point.norm(dim=1) * radius) + (1 - share).abs() * radius**2
    size = size + 2 * (length + norm) * radius
    slack = share.abs() * look.slack + 2 * (rest @ directions).norm(dim=1) * radius
    return bound, slack + (short.shape[1] + 4) * _UNIT * size
