"""Near duplicates: what is found, what it costs, and how the cost grows.

    python benchmarks/near_duplicates.py    # two minutes on one core

All text is invented: words of syllables, spaced as Swahili is or unspaced as Thai is.
Similarity is the Jaccard index of the sets of 5-grams themselves, without a hash.
"""

import collections
import functools
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time

import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_pipelines import minhash
from beam_pipelines.dedup import RemoveDuplicates
from beam_pipelines.schema import Document

SPACES = {"sw": " ", "th": ""}
BINS = [0, 0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.01]
SIZES = [5_000, 10_000, 20_000, 40_000]


@functools.cache
def vocabulary() -> list[str]:
    draw = random.Random(0)
    syllables = "ba cho da fu ga ha ji ka li mo nya po sha ta u vi wa ya zi".split()
    return [
        "".join(draw.choices(syllables, k=draw.choice([1, 2, 2, 3])))
        for _ in range(20_000)
    ]


def words(draw: random.Random, number: int) -> list[str]:
    return draw.choices(vocabulary(), k=number)


def edited(draw: random.Random, text: list[str], share: float) -> list[str]:
    """The text with about a share of its words replaced, four in a row each time."""
    result = list(text)
    for _ in range(round(share * len(text) / 4)):
        at = draw.randrange(len(text) - 4)
        result[at : at + 4] = words(draw, 4)
    return result


def seconds_each(texts: list[str], language: str) -> float:
    started = time.process_time()
    for text in texts:
        minhash.band_keys(text, language)
    return (time.process_time() - started) / len(texts)


def signature_speed() -> None:
    print("| text of 2,000 characters | ms | documents/s |\n| --- | ---: | ---: |")
    for language, space in SPACES.items():
        draw = random.Random(1)
        texts = [space.join(words(draw, 600))[:2000] for _ in range(100)]
        each = min(seconds_each(texts, language) for _ in range(5))
        name = "spaced words" if space else "unspaced"
        print(f"| {name} | {each * 1e3:.2f} | {1 / each:,.0f} |")


def versions(number: int) -> list[tuple[str, list[str]]]:
    """Language and words of texts; of each text there are two, changed more or less."""
    draw = random.Random(2)
    made = []
    for index in range(number // 3):
        language = list(SPACES)[index % 2]
        text = words(draw, draw.randrange(60, 300))
        made.append((language, text))
        made.extend((language, edited(draw, text, draw.random() / 3)) for _ in "12")
    return made


def similarities(texts: list[tuple[str, list[str]]]) -> dict[tuple[int, int], float]:
    """The Jaccard index of every two texts that have a 5-gram in common."""
    sizes, having = [], collections.defaultdict(list)
    for index, (language, text) in enumerate(texts):
        units = text if SPACES[language] else "".join(text)
        grams = {tuple(units[at : at + 5]) for at in range(len(units) - 4)}
        sizes.append(len(grams))
        for gram in grams:
            having[language, gram].append(index)
    common = collections.Counter(
        pair for found in having.values() for pair in itertools.combinations(found, 2)
    )
    return {
        (one, other): number / (sizes[one] + sizes[other] - number)
        for (one, other), number in common.items()
    }


def what_is_found() -> None:
    texts = versions(3000)
    having = collections.defaultdict(list)
    for index, (language, text) in enumerate(texts):
        for key in minhash.band_keys(SPACES[language].join(text), language):
            having[key].append(index)
    found = {
        pair for same in having.values() for pair in itertools.combinations(same, 2)
    }
    similar = similarities(texts)
    pairs = list(similar)
    values = np.array([similar[pair] for pair in pairs])
    hits = np.array([pair in found for pair in pairs])
    expected = 1 - (1 - values**minhash.NUM_ROWS) ** minhash.NUM_BANDS
    print("| Jaccard | pairs | found | by the formula |\n| --- | ---: | ---: | ---: |")
    for low, high in itertools.pairwise(BINS):
        there = (values >= low) & (values < high)
        print(
            f"| {low:.2f} to {min(high, 1):.2f} | {there.sum():,} "
            f"| {hits[there].mean():.2%} | {expected[there].mean():.2%} |"
        )
    group = list(range(len(texts)))
    for one, other in sorted(found):
        joined = {group[one], group[other]}
        group = [min(joined) if of in joined else of for of in group]
    members = collections.defaultdict(list)
    for index, of in enumerate(group):
        members[of].append(index)
    together = [
        similar.get(pair, 0.0)
        for same in members.values()
        for pair in itertools.combinations(same, 2)
    ]
    apart = sum(value < 0.4 for value in together)
    print(
        f"\nPairs in one group: {len(together):,}, of which below 0.4: {apart}; "
        f"pairs of unlike texts that share a band: {len(found - similar.keys())}."
    )


def document(index: int, copies: int) -> Document:
    """Text number `index`; `copies` of every four are versions of the first."""
    place = index % 4
    origin = index - place if place <= copies else index
    draw = random.Random(origin)
    text = words(draw, 150)
    if origin != index:
        text[place * 7] = vocabulary()[index % len(vocabulary())]
    return Document(
        id=f"{index:08}",
        url=f"https://site.example/{index}",
        domain="site.example",
        date="2026-01-12T00:00:00Z",
        warc_file="",
        warc_offset=0,
        warc_length=0,
        digest="",
        language="sw",
        language_score=1.0,
        text=" ".join(text),
        robots=(),
        license="",
        checks={},
    )


def run(number: int, copies: int) -> float:
    """CPU seconds of one pipeline over so many documents."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | beam.Create(range(0, number, 100))
                | beam.FlatMap(lambda first: range(first, min(first + 100, number)))
                | beam.Map(document, copies)
                | RemoveDuplicates(f"{folder}/duplicates.json")
            )
        with open(f"{folder}/duplicates.json", encoding="utf-8") as file:
            dropped = sum(row[2] for row in json.load(file))
    assert dropped == number // 4 * copies, (dropped, number, copies)
    return time.process_time() - started


def growth() -> None:
    print(
        "| documents | near duplicates | CPU s | ms a document | to the first row "
        "| peak MB |\n| ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    first = 0.0
    for number, copies in [*((size, 1) for size in SIZES), (SIZES[2], 3)]:
        child = subprocess.run(
            [sys.executable, __file__, str(number), str(copies)],
            check=True,
            stdout=subprocess.PIPE,
        )
        seconds, peak_mb = json.loads(child.stdout)
        each = seconds / number * 1e3
        first = first or each
        print(
            f"| {number:,} | {copies / 4:.0%} | {seconds:.1f} | {each:.2f} "
            f"| {each / first:.2f} | {peak_mb:,.0f} |"
        )


def one_size(number: int, copies: int) -> None:
    """In a process of its own, since a peak of memory never falls."""
    alone = min(run(0, copies), run(0, copies))
    seconds = run(number, copies) - alone
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, peak / 1024]))


def main() -> None:
    signature_speed()
    print()
    # First, since a child's peak counts what its parent had when it started.
    growth()
    print()
    what_is_found()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_size(*map(int, sys.argv[1:]))
    else:
        main()
