"""Splits by domain: none is empty, and shares are as asked."""

import pytest

from beam_pipelines import splits
from beam_pipelines.recipe import Diversify


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 0.45])
@pytest.mark.parametrize("num_domains", [3, 4, 200])
def test_no_promised_split_is_empty(share, num_domains):
    domains = [f"site{number}.example" for number in range(num_domains)]
    settings = Diversify(validation=share, test=share)
    pins = _pins(domains)
    found = [splits.split_of(domain, settings, pins) for domain in domains]
    promised = {"train"} if share == 0 else {"train", "validation", "test"}
    assert set(found) == promised


def test_shares_of_many_domains_are_as_asked():
    domains = [f"site{number}.example" for number in range(5000)]
    settings = Diversify(validation=0.1, test=0.2)
    pins = _pins(domains)
    found = [splits.split_of(domain, settings, pins) for domain in domains]
    assert found.count("validation") / 5000 == pytest.approx(0.1, abs=0.02)
    assert found.count("test") / 5000 == pytest.approx(0.2, abs=0.02)


def test_too_few_domains_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"1 registered domain.*3 splits.*to 0"):
        splits.enough_domains(_pins(["a.example"]), Diversify())
    with pytest.raises(ValueError, match="No pair was kept"):
        splits.enough_domains(splits.Pins(), Diversify())
    alone = Diversify(validation=0, test=0)
    pins = splits.enough_domains(_pins(["a.example"]), alone)
    assert splits.split_of("a.example", alone, pins) == "train"


def _pins(domains: list[str]) -> splits.Pins:
    combine = splits.PinnedDomains()
    parts = [
        combine.add_input(combine.create_accumulator(), domain) for domain in domains
    ]
    half = len(parts) // 2
    return combine.merge_accumulators(
        [
            combine.merge_accumulators(parts[:half]),
            combine.merge_accumulators(parts[half:]),
        ]
    )
