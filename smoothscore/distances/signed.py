"""8-bit centers as signed bytes, whose products with fixed-point numbers are exact in 32 bits, and fast."""

import torch
from torch import Tensor

MIDDLE = 128  # that is subtracted from 0 … 255
MOST_DIGITS = 4
_ROWS = 2048  # centers in one product of points and centers, so that its result stays in the processor's cache
_LONGEST = 2**16  # terms of one product: each is at most 2¹⁴, so that their sum stays below 2³¹
_UNITS = ("avx512_vnni", "avx_vnni", "amx_int8")  # of a processor, in `torch.cpu.get_capabilities`


class SignedBytes:
    """Centers u/255 held as u − 128, and what they give with real numbers of 1 to 4 digits of 8 bits.

    A row of real numbers becomes q · step, q whole and at most 127 · 256^(digits − 1), digit by digit −128 … 127. Only
    this rounding is an error, at most the row's largest value times 256^−digits each.

    Args:
        rows: u − 128, int8 [M, d].
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @classmethod
    def of(cls, data: Tensor) -> "SignedBytes | None":
        """Of images [M, d] whose values all are 8-bit ones, None of others; uint8, or floating point from it."""
        if data.shape[1] > _LONGEST or data.dtype not in (torch.uint8, torch.float32, torch.float64):
            return None
        rows = torch.empty(data.shape, dtype=torch.int8, device=data.device)
        for start in range(0, len(data), _ROWS):
            part = data[start : start + _ROWS]
            whole = part if part.dtype == torch.uint8 else (255 * part).round_().clamp_(0, 255).to(torch.uint8)
            if part.dtype != torch.uint8 and not torch.equal(whole.to(part.dtype).div_(255), part):
                return None
            rows[start : start + len(part)] = (whole ^ MIDDLE).view(torch.int8)
        return cls(rows)

    def products(self, x: Tensor, columns: Tensor | None = None, *, digits: int = 3) -> Tensor:
        """Σ_i x_bi (u_ji − 128)/255 for x [B, d]: float32 [B, M], or [B, U] for columns int64 [U]."""
        whole, step = _fixed_point(x, digits)
        stacked = torch.cat(_digits(whole, digits))
        rows = self.rows if columns is None else self.rows[columns]
        found = torch.empty(len(x), len(rows), dtype=torch.float32, device=x.device)
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            *lower, highest = torch.split(torch._int_mm(stacked, part.T), len(x))
            total = highest.float()
            for digit in reversed(lower):
                total.mul_(256).add_(digit)
            torch.mul(total, (step / 255).float(), out=found[:, start : start + len(part)])
        return found

    def weighted_sum(self, weights: Tensor, columns: Tensor | None = None, *, digits: int) -> Tensor:
        """Σ_j w_bj (u_j − 128)/255 for weights [B, M], or [B, U] for columns int64 [U]: float64 [B, d]."""
        total = torch.zeros(len(weights), self.rows.shape[1], dtype=torch.float64, device=weights.device)
        rows = self.rows if columns is None else self.rows[columns]
        whole, step = _fixed_point(weights, digits)
        stacked = torch.cat(_digits(whole, digits))
        for start in range(0, len(rows), _LONGEST):
            span = slice(start, start + _LONGEST)
            for place, part in enumerate(torch.split(torch._int_mm(stacked[:, span], rows[span]), len(weights))):
                total.add_(part, alpha=256**place)
        return total.mul_(step.double() / 255)


def multiplies_bytes(device: torch.device) -> bool:
    """Whether a device has units for products of bytes that are at least twice as fast as float32; CPUs only so far."""
    if device.type != "cpu" or not hasattr(torch, "_int_mm") or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in _UNITS)


def rounding(digits: int) -> float:
    """Bound on the error of every number, relative to the largest of its row."""
    return float(128 / 127 * 256.0**-digits)


def _fixed_point(values: Tensor, digits: int) -> tuple[Tensor, Tensor]:
    """Values [B, n] as q [B, n], whole numbers in floating point, times step [B, 1]."""
    largest = values.abs().amax(1, keepdim=True) if values.shape[1] else values.new_zeros(len(values), 1)
    most = 127 * 256 ** (digits - 1)
    step = largest.clamp_min(torch.finfo(values.dtype).tiny * most) / most
    return (values / step).round_(), step


def _digits(whole: Tensor, count: int) -> list[Tensor]:
    """Whole numbers [B, n] as digits −128 … 127, int8 each, the lowest first."""
    left, found = whole.to(torch.int32), []
    for _ in range(count - 1):
        found.append(left.to(torch.int8))  # modulo 256
        left = (left - found[-1]) >> 8
    return [*found, left.to(torch.int8)]
