"""Which size and which weights a store's matrix factors get."""

from collections.abc import Callable
from dataclasses import replace

from aihub.recsys.ials import Factors, IalsSettings, dot_scores, fit_ials
from aihub.recsys.interactions import PairMatrix
from aihub.recsys.neumf_fit import ScorePairs
from aihub.recsys.results import Cancelled, Progress

_DIMS = (192, 128, 64, 32)
_FLOPS_PER_S = 2.5e10  # of one core, with room for what else it does
_SEARCHED_FLOATS = 8_000_000  # items times dim: 100,000 of 64 answer in about 1 ms, of 192 in 5.5 ms
_SEARCH_DIM = 64  # with fewer numbers, other weights win than with many
_SEARCH_EPOCHS = 4
_SEARCH_PAIRS = 1_000_000
_TRIED = (1 / 3, 3.0)  # times the first
_UNOBSERVED_EVENTS = 1_000.0
_LEAST_WEIGHT, _LARGEST_WEIGHT = 0.001, 1.0
_PAIRED_SPREAD = 0.2  # standard deviation of one case's difference in NDCG between two like models


def choose_dim(pairs: PairMatrix, epochs: int, limit_s: float) -> int:
    """The largest size whose sweeps fit into the time on one core, and whose items are searched in milliseconds."""
    rows = pairs.n_users + pairs.n_items
    for dim in _DIMS:
        if pairs.n_items * dim > _SEARCHED_FLOATS:
            continue
        work = epochs * (4.0 * len(pairs.items) * dim**2 + rows * dim**3)
        if work / _FLOPS_PER_S <= limit_s:
            return dim
    return _DIMS[-1]


def choose_weight(n_items: int) -> float:
    """The first weight of unobserved pairs: a user's together weigh as much as about a thousand events.

    So do the tuned settings of Rendle et al. 2021 on catalogues of 3,700 to 41,000 items; a weight fixed for small catalogues
    would press everything to nothing in large ones, as regularisation grows with it.
    """
    return min(_LARGEST_WEIGHT, max(_LEAST_WEIGHT, _UNOBSERVED_EVENTS / max(1, n_items)))


def choose_settings(
    pairs: PairMatrix,
    first: IalsSettings,
    judge: Callable[[ScorePairs], float],
    cases: int,
    progress: Progress,
    cancelled: Cancelled,
) -> IalsSettings:
    """Try weights of unobserved pairs, then regularisations, with small factors; the best on the hold-out wins.

    A value other than the first must be better by the standard error of such a comparison: chance among a few would win
    otherwise. Stores with more than a million pairs keep `first`: a search would take longer than it gains.

    Args:
        cases: How many `judge` looks at.
    """
    if len(pairs.items) > _SEARCH_PAIRS:
        return first
    small = replace(first, dim=_SEARCH_DIM, epochs=_SEARCH_EPOCHS)
    tried = 0

    def quality(candidate: IalsSettings) -> float:
        nonlocal tried
        found: list[float] = []

        def after_epoch(epoch: int, factors: Factors) -> bool:
            if epoch == candidate.epochs:
                found.append(judge(lambda users, items: dot_scores(factors, users, items)))
            return False

        fit_ials(pairs, candidate, after_epoch, cancelled)
        tried += 1
        progress("settings", tried / (1 + 2 * len(_TRIED)))
        return found[0]

    found = {first.unobserved_weight: quality(small)}
    for times in _TRIED:
        weight = times * first.unobserved_weight
        found[weight] = quality(replace(small, unobserved_weight=weight))
    margin = _PAIRED_SPREAD / max(1, cases) ** 0.5
    weight = _best(found, first.unobserved_weight, margin)
    regularised = {first.regularisation: found[weight]}
    for times in _TRIED:
        regularisation = times * first.regularisation
        regularised[regularisation] = quality(replace(small, unobserved_weight=weight, regularisation=regularisation))
    return replace(first, unobserved_weight=weight, regularisation=_best(regularised, first.regularisation, margin))


def _best(found: dict[float, float], first: float, margin: float) -> float:
    best = max(found, key=found.__getitem__)
    return best if found[best] > found[first] + margin else first
