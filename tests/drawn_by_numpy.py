"""How tokens are drawn, in float64 and by sorting: slow, and plain."""

import numpy as np


def weights(logits, settings):
    """The distribution `[V]` that a token is drawn from: temperature, top-k, then top-p."""
    scaled = np.asarray(logits, np.float64) / settings.temperature
    if settings.top_k:
        least = np.sort(scaled)[::-1][: settings.top_k][-1]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    shares = np.exp(scaled - scaled.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    before = np.cumsum(shares[order]) - shares[order]
    shares[order[before >= settings.top_p]] = 0
    return shares / shares.sum()


def token(logits, settings, number):
    """The token that a random number draws."""
    ends = np.cumsum(weights(logits, settings))
    return int(np.searchsorted(ends, number * ends[-1], side="right"))
