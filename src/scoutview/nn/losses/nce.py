"""Losses that tell an image's own row of a memory bank from the rows of others."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.nn.gather import all_gather, world_size
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.precision import full_precision


@full_precision
def bank_logits(
    query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """Compare each query with its own row and with the rows of others.

    Args:
        query: Unit vectors, (B, D).
        positive: Unit vectors, (B, D); row i belongs to query i.
        negatives: Unit vectors, (K, D) for all queries, or (B, K, D), own ones for each.
        temperature: Softmax temperature, > 0.

    Returns:
        Logits, (B, 1 + K), the positive first.
    """
    query = query / temperature
    own = (query * positive).sum(dim=1, keepdim=True)  # (B, 1)
    if negatives.ndim == 2:
        others = query @ negatives.T  # (B, K)
    else:
        others = (negatives @ query.unsqueeze(2)).squeeze(2)  # (B, K)
    return torch.cat([own, others], dim=1)


@full_precision
def constant_nce(logits: Tensor, log_z: Tensor, *, images: int, epsilon: float = 0.0) -> Tensor:
    """Tell data from noise, with P(i | v) = exp(logit) / Z and uniform noise over the images.

    With P_n = 1 / N: h(i, v) = P / (P + K P_n), loss = -log h(positive) - sum log(1 - h(negative)),
    computed as logistic losses of log P - log K P_n, which neither overflow nor lose digits.

    Args:
        logits: Similarities over the temperature, (B, 1 + K), the positive first.
        log_z: Logarithm of the constant Z, scalar without gradient.
        images: Images in the training set, N.
        epsilon: Added to both denominators; the published code has 1e-7, the paper 0.

    Returns:
        Mean loss over the queries, scalar.

    Source: Wu et al., 2018, arXiv:1805.01978, eqs. 4 to 7; zhirongw/lemniscate.pytorch,
    lib/NCECriterion.py.
    """
    noise = (logits.shape[1] - 1) / images  # K P_n
    log_noise = math.log(noise + epsilon)
    over = logits - log_z - log_noise  # (B, 1 + K) log of P / (K P_n)
    shortfall = log_noise - math.log(noise)  # 0 without epsilon
    positive = F.softplus(-over[:, 0])  # (B,)
    negative = (F.softplus(over[:, 1:]) + shortfall).sum(dim=1)  # (B,)
    return (positive + negative).mean()


class ConstantZ(nn.Module):
    """The constant Z of `constant_nce`: measured on the first batch or batches, then fixed.

    Source: Wu et al., 2018, arXiv:1805.01978, eq. 8.
    """

    log_z: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_z", torch.full((), float("-inf")))  # -inf: not yet
        self._measured: Tensor | None = None
        self._fixed, self._seen = False, (-1, -1)

    def forward(self, logits: Tensor, *, images: int, anew: bool = False) -> Tensor:
        """Give log Z; the first time, measure it as N times the mean of exp over all processes.

        Args:
            logits: Similarities over the temperature, (B, 1 + K).
            images: Images in the training set, N.
            anew: Measure it again, in this step too.

        Returns:
            log Z, scalar without gradient.
        """
        seen = (id(self.log_z), self.log_z._version)
        if not anew and seen != self._seen:  # new, or somebody loaded a checkpoint into the buffer
            self._fixed, self._seen = bool(self.log_z.isfinite()), seen
        if self._fixed and not anew:
            return self.log_z
        if self._measured is None:  # a later part of the same step takes it as it is
            own = logits.detach().flatten().logsumexp(dim=0, keepdim=True)  # (1,)
            count = logits.numel() * world_size()
            log_mean = all_gather(own).logsumexp(dim=0) - math.log(count)
            self._measured = (log_mean + math.log(images)).to(self.log_z)
        return self._measured

    def fix(self) -> None:
        """Keep what was measured; call it after the optimiser has stepped."""
        if self._measured is not None:
            self.log_z.copy_(self._measured)
            self._measured = None


@full_precision
def share_nce(logits: Tensor) -> Tensor:
    """Tell the positive from each negative by its share h of the softmax over all of them.

    Args:
        logits: Similarities over the temperature, (B, 1 + K), the positive first.

    Returns:
        Mean over the queries of -log h(positive) - sum log(1 - h(negative)), scalar. A negative
        whose share rounds to 1 counts with the smallest number that 1 - h can take.

    Source: Misra and van der Maaten, 2019, arXiv:1912.01991, eqs. 4 and 5.
    """
    log_share = F.log_softmax(logits, dim=1)  # (B, 1 + K)
    rest = (-torch.expm1(log_share[:, 1:])).clamp_min(torch.finfo(logits.dtype).eps)  # 1 - h
    return -(log_share[:, 0] + rest.log().sum(dim=1)).mean()


def share_nce_chance(negatives: int) -> float:
    """Give `share_nce` where all logits are equal.

    It is also the least `constant_nce` of a network that cannot tell images apart: the one with
    P(i | v) = 1 / N, which Z measured on its own logits gives it.

    Args:
        negatives: K.
    """
    return math.log(1 + negatives) + negatives * math.log1p(1 / negatives)


def bank_softmax(
    query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """Cross entropy of each query's own row among the drawn rows of others.

    Args:
        query: Unit vectors, (B, D).
        positive: Unit vectors, (B, D); row i belongs to query i.
        negatives: Unit vectors, (K, D) for all queries, or (B, K, D), own ones for each.
        temperature: Softmax temperature, > 0.

    Returns:
        Mean loss over the queries, scalar.

    Source: HobbitLong/PyContrast, pycontrast/memory/mem_bank.py.
    """
    if negatives.ndim == 2:
        return info_nce(query, positive, negatives, temperature=temperature)
    logits = bank_logits(query, positive, negatives, temperature=temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


@full_precision
def full_softmax(query: Tensor, bank: Tensor, rows: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of each query's own row among all rows of the bank.

    Args:
        query: Unit vectors, (B, D).
        bank: Unit vectors, (N, D).
        rows: The own rows, (B,).
        temperature: Softmax temperature, > 0.

    Returns:
        Mean loss over the queries, scalar.

    Source: Wu et al., 2018, arXiv:1805.01978, eq. 2.
    """
    return F.cross_entropy(query @ bank.T / temperature, rows)
