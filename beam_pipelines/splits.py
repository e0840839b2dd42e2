"""Which split an example belongs to: by the hash of its registered domain."""

import dataclasses
import hashlib
from collections.abc import Iterable

import apache_beam as beam

from beam_pipelines.recipe import Diversify


def domain_position(domain: str) -> float:
    """Where a registered domain lies in [0, 1), by its hash alone."""
    digest = hashlib.blake2b(domain.encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


@dataclasses.dataclass(frozen=True, slots=True)
class Pins:
    """The positions of the domains that keep every split from being empty.

    A share of 1 % of few domains may be no domain at all, and an empty split would
    fail the whole build at its end. So the lowest position is always for validation,
    the highest always for test, the second lowest always for training.

    Attributes:
      lowest: Up to two, ascending.
      highest: The highest, if there is one.
    """

    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()


def splits(settings: Diversify) -> list[str]:
    """The splits that a data set has; none of them will be empty."""
    shares = {"train": 1.0, "validation": settings.validation, "test": settings.test}
    return [split for split, share in shares.items() if share]


def enough_domains(pins: Pins, settings: Diversify) -> Pins:
    """The pins, if every promised split can have a domain.

    TFDS would fail too, but only after everything, and without saying why.

    Raises:
      ValueError: There are fewer domains than splits.
    """
    domains = len({*pins.lowest, *pins.highest})
    num_splits = len(splits(settings))
    if domains == 0:
        raise ValueError(
            "No pair was kept, so there is nothing to publish. Where they were lost, "
            "the funnel says: `xinst report STORE`."
        )
    if domains < num_splits:
        raise ValueError(
            f"The data set's examples come from {domains} registered domain(s), too "
            f"few for {num_splits} splits, which are made by domain. Read more pages, "
            "or set diversify.validation and diversify.test to 0 in the recipe."
        )
    return pins


def split_of(domain: str, settings: Diversify, pins: Pins) -> str:
    """The split of every example of a registered domain.

    Args:
      domain: Registered, so that one site's pages stay together.
      settings: The shares of validation and test.
      pins: Of all domains; `enough_domains` has passed them.
    """
    at = domain_position(domain)
    lowest = pins.lowest if settings.validation else (-1.0, *pins.lowest)
    if settings.validation and at == lowest[0]:
        return "validation"
    if settings.test and at == pins.highest[0]:
        return "test"
    if at == lowest[1]:
        return "train"
    if at < settings.validation:
        return "validation"
    return "test" if at >= 1 - settings.test else "train"


class PinnedDomains(beam.CombineFn):
    """The pins of all domains."""

    def create_accumulator(self) -> Pins:
        return Pins()

    def add_input(self, pins: Pins, domain: str) -> Pins:
        at = (domain_position(domain),)
        return self.merge_accumulators([pins, Pins(at, at)])

    def merge_accumulators(self, parts: Iterable[Pins]) -> Pins:
        lowest: set[float] = set()
        highest: set[float] = set()
        for part in parts:
            lowest.update(part.lowest)
            highest.update(part.highest)
        return Pins(tuple(sorted(lowest)[:2]), tuple(sorted(highest)[-1:]))

    def extract_output(self, pins: Pins) -> Pins:
        return pins
