"""How many of each topic are chosen, and who may be: decided without vectors.

A language is seen in one place here, in 60 bytes a candidate.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from beam_pipelines.recipe import Diversify

# Of a topic the best are looked at, so many times its quota.
_LOOKED_AT = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The same without the vector, and with what the vector was wanted for.

    Attributes:
      key: Of the item.
      cluster: The number of its topic in its language.
      score: The evaluator's.
      domain: The registered domain.
      verb: The root verb, or empty.
    """

    key: str
    cluster: int
    score: float
    domain: str
    verb: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What becomes of a candidate, as far as quotas and caps decide it.

    Attributes:
      cluster: Its topic.
      quota: How many of its topic are chosen.
      reason: Why it is not looked at; empty if it is.
      by_score: Whether it were published, if the best scores alone were.
    """

    cluster: int
    quota: int
    reason: str
    by_score: bool


def quotas(sizes: Mapping[int, int], total: int) -> dict[int, int]:
    """How many of each cluster are taken: all, or `total` by the root of their sizes.

    Args:
      sizes: Members of each cluster.
      total: At most so many are taken.
    """
    if sum(sizes.values()) <= total:
        return dict(sizes)
    taken = dict.fromkeys(sizes, 0)
    while (left := total - sum(taken.values())) > 0:
        open_labels = [label for label in sizes if taken[label] < sizes[label]]
        weight = sum(math.sqrt(sizes[label]) for label in open_labels)
        shares = {
            label: math.floor(left * math.sqrt(sizes[label]) / weight)
            for label in open_labels
        }
        if not any(shares.values()):
            # Fewer are left than clusters: one each, the largest first.
            largest = sorted(open_labels, key=lambda label: (-sizes[label], label))
            shares = dict.fromkeys(largest[:left], 1)
        for label, share in shares.items():
            taken[label] = min(sizes[label], taken[label] + share)
    return taken


@dataclasses.dataclass(slots=True)
class _Columns:
    """The entries of one language, the best first: 60 bytes each, and each name once.

    Attributes:
      keys: Of the items, `[N]` bytes.
      clusters: `[N]`.
      domains: Numbers for the registered domains, `[N]`.
      verbs: Likewise of the root verbs.
      no_verb: The number that stands for none; -1 if all have one.
    """

    keys: np.ndarray
    clusters: np.ndarray
    domains: np.ndarray
    verbs: np.ndarray
    no_verb: int


_ROW = [("key", "S32"), ("worse", "f8"), ("at", "i4"), ("domain", "i4"), ("verb", "i4")]


def _columns(entries: Iterable[Entry]) -> _Columns:
    domains: dict[str, int] = {}
    names: dict[str, int] = {}
    rows = np.fromiter(
        (
            (
                entry.key.encode(),
                -entry.score,
                entry.cluster,
                domains.setdefault(entry.domain, len(domains)),
                names.setdefault(entry.verb, len(names)),
            )
            for entry in entries
        ),
        _ROW,
    )
    order = np.lexsort((rows["key"], rows["worse"]))
    keys, _, clusters, numbers, found = (rows[name][order] for name, _ in _ROW)
    return _Columns(keys, clusters, numbers, found, names.get("", -1))


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What quotas and caps decide in one language.

    Attributes:
      places: Of every item, by its key.
      summary: Of them all, as `diversity.json` has it, without instructions.
    """

    places: Iterator[tuple[str, Place]]
    summary: dict[str, Any]


def plan(entries: Iterable[Entry], settings: Diversify) -> Plan:
    """How many of each topic are chosen, and which of them are looked at.

    The caps come first, as rules on who may be chosen at all, so that they hold
    whatever is chosen of a topic. Of a domain the best `max_per_domain` may. Of a verb
    that has more than its share of the examples, so many may as the share is, those
    first that are nearest to the top of their topics for its quota; and where the
    others are too few for what is asked, more of them in the same order: then the share
    is exceeded, and the summary says so. A language without enough candidates has as
    many examples as may be chosen. Instructions without a verb have no share to keep.

    Args:
      entries: All of one language, in any order; at least one.
      settings: The quota and the caps.
    """
    columns = _columns(entries)
    number, asked = len(columns.keys), settings.examples_per_language
    may = _rank(columns.domains) < settings.max_per_domain
    reasons = np.where(may, "over_quota", "domain_cap")
    total = min(asked, int(may.sum()))
    share = max(1, math.floor(settings.max_verb_share * total))
    held = _beyond_share(columns, may, total, share)
    reasons[held] = "verb_cap"
    may &= ~held

    quota = _quotas(columns.clusters, may, total)
    own = quota[columns.clusters]
    looked_at = may & (_rank(columns.clusters, may) < _LOOKED_AT * own)
    reasons[looked_at] = ""
    before = np.bincount(columns.clusters[:total])
    summary = {
        "asked": asked,
        "available": number,
        "chosen": total,
        "shortfall": _shortfall(asked, number, total, settings),
        "clusters": len(np.unique(columns.clusters)),
        "before": _evenness(before),
        "after": _evenness(quota),
    }
    return Plan(_places(columns.keys, columns.clusters, own, reasons, total), summary)


def _beyond_share(
    columns: _Columns, may: np.ndarray, total: int, share: int
) -> np.ndarray:
    """Those who may not be chosen, since too many ask for the same, `[N]` bool.

    Args:
      columns: Of the language.
      may: Who may be chosen as far as other caps go, `[N]` bool.
      total: How many are chosen.
      share: So many of a verb may be.
    """
    quota = _quotas(columns.clusters, may, total)[columns.clusters]
    # 1 is the last that its topic would choose, if scores alone decided.
    depth = (_rank(columns.clusters, may) + 1) / np.maximum(quota, 0.5)
    order = np.argsort(depth, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = _rank(columns.verbs[order], may[order])
    named = columns.verbs != columns.no_verb
    held = may & named & (rank >= share)
    missing = total - int((may & ~held).sum())
    if missing > 0:
        held[order[held[order]][:missing]] = False
    return held


def _quotas(clusters: np.ndarray, may: np.ndarray, total: int) -> np.ndarray:
    """The quota of every cluster, by its number."""
    sizes = np.bincount(clusters[may], minlength=int(clusters.max()) + 1)
    taken = quotas({int(n): int(sizes[n]) for n in np.flatnonzero(sizes)}, total)
    quota = np.zeros(len(sizes), np.int64)
    quota[list(taken)] = list(taken.values())
    return quota


def _rank(groups: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """How many stand before each in its group, `[N]`; of those counted, or of all."""
    order = groups.argsort(kind="stable")
    ordered = groups[order]
    ones = np.ones(len(groups), bool) if counted is None else counted[order]
    before = np.cumsum(ones) - ones
    rank = np.empty(len(groups), np.int64)
    rank[order] = before - before[np.searchsorted(ordered, ordered)]
    return rank


def _places(
    keys: np.ndarray,
    clusters: np.ndarray,
    quota: np.ndarray,
    reasons: np.ndarray,
    total: int,
) -> Iterator[tuple[str, Place]]:
    for at, key in enumerate(keys):
        yield (
            key.decode(),
            Place(
                cluster=int(clusters[at]),
                quota=int(quota[at]),
                reason=str(reasons[at]),
                by_score=at < total,
            ),
        )


def _shortfall(asked: int, number: int, total: int, settings: Diversify) -> str | None:
    """Why there are fewer examples than asked for, in words."""
    if total == asked:
        return None
    if total == number:
        return f"only {number:,} candidates were kept"
    return (
        f"of {number:,} candidates that were kept, {number - total:,} are beyond "
        f"{settings.max_per_domain:,} of their domain"
    )


def _evenness(counts: np.ndarray) -> dict[str, Any]:
    """How many clusters have members, and the entropy of their shares, in nats."""
    shares = counts[counts > 0] / max(1, counts.sum())
    entropy = float(-(shares * np.log(shares)).sum())
    return {"clusters": len(shares), "entropy": round(entropy, 4) + 0.0}
