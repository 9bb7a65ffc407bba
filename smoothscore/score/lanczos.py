"""The dominant eigenvalue of symmetric operators that are only known by their products, many at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

_TOLERANCE = 1e-6  # residual of both ends of the spectrum, relative to the larger of them
_MAX_STEPS = 300


def dominant_eigenpairs(apply: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalue of largest size of each of b symmetric operators, by Lanczos iteration.

    Args:
        apply: multiplies b vectors [b, d] by the b operators.
        start: float64 [b, d], vectors that no dominant eigenvector is orthogonal to, such as random ones.

    Returns:
        Eigenvalues [b], with their signs, within 1e-6 of their size, and unit eigenvectors [b, d].

    Raises:
        RuntimeError: no convergence in 300 steps.
    """
    basis = start.new_empty(len(start), 0, start.shape[1])
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    vector = torch.nn.functional.normalize(start, dim=1)
    for _ in range(min(start.shape[1], _MAX_STEPS)):
        basis = torch.cat([basis, vector[:, None]], dim=1)
        image = apply(vector)
        alphas.append((image * vector).sum(1))
        for _ in range(2):  # once loses the orthogonality that keeps copies of an eigenvalue out
            image = image - torch.einsum("bk,bkd->bd", torch.einsum("bkd,bd->bk", basis, image), basis)
        beta = torch.linalg.vector_norm(image, dim=1)
        tridiagonal = torch.diag_embed(torch.stack(alphas, 1))
        if betas:
            off = torch.diag_embed(torch.stack(betas, 1), offset=1)
            tridiagonal = tridiagonal + off + off.mT
        value, combination = torch.linalg.eigh(tridiagonal)
        ends = value[:, [0, -1]]
        size = ends.abs().amax(1)
        residual = beta * combination[:, -1, [0, -1]].abs().amax(1)
        if bool((residual <= _TOLERANCE * size).all()):
            end = ends.abs().argmax(1) * (value.shape[1] - 1)
            chosen = torch.arange(len(value), device=value.device)
            return value[chosen, end], torch.einsum("bk,bkd->bd", combination[chosen, :, end], basis)
        # an exhausted space goes on with zeros, whose eigenvalue 0 dominates nothing
        beta = torch.where(beta > _TOLERANCE**2 * size, beta, 0)
        betas.append(beta)
        vector = image / torch.where(beta > 0, beta, torch.inf)[:, None]
    raise RuntimeError(f"the Lanczos iteration did not converge in {_MAX_STEPS} steps")
