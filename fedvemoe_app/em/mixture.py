"""The mixture at token level: the posterior that trains, and the filter that predicts.

Training may look at the target token (``token_posterior``); a prediction may not. Reported
probabilities therefore come from ``filtered``, whose weights at token t depend on the tokens
before t only (fixed share, Herbster and Warmuth 1998), so that they sum to one over the
vocabulary. The form with the target inside reports perplexities below those of the true
expert and is used nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.005, 0.0)


def token_posterior(log_lik: Tensor, weights: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Return alpha [N, K] = softmax_k(log r_k + u_tk / gamma) for ``log_lik`` [N, K] nats.

    At gamma = 1 this is the exact E-step of the mixture; another gamma belongs to the tempered
    objective ``gamma log sum_k r_k p_k^(1/gamma)`` and must be used in both steps.
    """
    return torch.softmax(weights.log() + log_lik / gamma, dim=-1)


def advance(weights: Tensor, log_lik: Tensor, prior: Tensor, share: float) -> Tensor:
    """Return the weights [..., K] after a token of likelihoods ``log_lik`` [..., K] was seen.

    ``a' = (1 - share) * posterior + share * prior``: with probability ``share`` the next token
    draws its expert anew from the silo's responsibilities ``prior`` [K].
    """
    posterior = torch.softmax(weights.log() + log_lik, dim=-1)
    return (1.0 - share) * posterior + share * prior


def filtered(log_lik: Tensor, lengths: Sequence[int], prior: Tensor, share: float) -> Tensor:
    """Return ``log p(y_t | past)`` [N], nats, of the proper predictive mixture.

    Parameters
    ----------
    log_lik
        [N, K] nats per token, the sequences one after another.
    lengths
        Tokens of each sequence; they sum to N.
    prior
        [K] the silo's responsibilities, where every sequence starts.
    share
        Probability of switching experts between tokens, in [0, 1].

    """
    if len(log_lik) == 0:
        return prior.new_zeros(0)
    steps = pad_sequence(list(torch.split(log_lik, list(lengths))), batch_first=True)
    weights = prior.expand(len(lengths), -1)
    predictive = []
    for t in range(steps.shape[1]):
        predictive.append(torch.logsumexp(weights.log() + steps[:, t], dim=-1))
        weights = advance(weights, steps[:, t], prior, share)
    rows = torch.stack(predictive, dim=1)
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


def choose_share(log_lik: Tensor, lengths: Sequence[int], prior: Tensor) -> float:
    """Return the switching probability with the best predictive likelihood on the probe.

    Prequential: every token is predicted before it is seen, so no held-out part is needed and
    no model pass is made. Ties go to the larger share (the memoryless mixture).
    """
    if int((prior > 0).sum()) == 1:
        return 1.0
    totals = [float(filtered(log_lik, lengths, prior, share).sum()) for share in SHARES]
    return SHARES[max(range(len(SHARES)), key=lambda i: totals[i])]
