"""What a million documents would cost on Dataflow, from prices and rates that you give.

    python benchmarks/dataflow_cost.py
    python benchmarks/dataflow_cost.py --l4-share-of-peak 0.4 --v5e-chip 1.2

Nothing here was measured on Google Cloud, nor the engine on a GPU or TPU of theirs: the
defaults are assumptions, each printed with where it comes from. Replace them by what
`benchmarks/ingest_speed.py`, `gpu_engine.py` and the last line of `xinst run` tell on
your machines, and by the prices of your region. The formula of each line is beside it.
"""

import argparse
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A number that the table rests on.

    Attributes:
      value: By default.
      unit: And what is counted.
      source: Why that number.
    """

    value: float
    unit: str
    source: str


_REMEMBERED = "as commonly quoted for us-central1; look at Google's price page"

ASSUMPTIONS = {
    "documents": Assumption(
        value=1e6, unit="documents to generate for and to score", source="the question"
    ),
    "pages-per-document": Assumption(
        value=8,
        unit="pages read for a document, in all ten languages",
        source="128 documents of 1,000 pages of benchmarks/bench_crawl.py; your funnel "
        "tells yours, and one rare language takes thousands",
    ),
    "pages-per-core-second": Assumption(
        value=212,
        unit="pages a CPU second, WARC in, documents out",
        source="benchmarks/ingest_speed.py on those pages, on one shared core",
    ),
    "core-busy": Assumption(
        value=0.5,
        unit="of the paid core time, the rest waits for the network",
        source="a guess",
    ),
    "core-price": Assumption(
        value=0.056, unit="$ a vCPU hour, batch worker", source=_REMEMBERED
    ),
    "memory-price": Assumption(
        value=0.003557, unit="$ a GB hour, batch worker", source=_REMEMBERED
    ),
    "memory-per-core": Assumption(
        value=4, unit="GB a vCPU", source="n1-standard, e2-standard, g2-standard"
    ),
    "shuffle-price": Assumption(
        value=0.011, unit="$ a GB through Dataflow Shuffle", source=_REMEMBERED
    ),
    "shuffled-kb": Assumption(
        value=40,
        unit="KB shuffled for a document, all stages",
        source="texts of at most 2,048 characters (some 5 KB) pass four joins twice",
    ),
    "passes": Assumption(
        value=4,
        unit="times that a model reads a document",
        source="generated once, rated once, forward and backward evidence",
    ),
    "prompt-tokens": Assumption(
        value=1000, unit="tokens of a prompt", source="docs/engine.md's rooflines"
    ),
    "new-tokens": Assumption(
        value=32, unit="tokens of an instruction", source="docs/engine.md's rooflines"
    ),
    "parameters": Assumption(
        value=8e9, unit="parameters of either model", source="Llama-3-8B"
    ),
    "l4-peak": Assumption(
        value=121e12, unit="FLOP/s of an L4, bfloat16", source="its maker"
    ),
    "l4-share-of-peak": Assumption(
        value=0.3, unit="of that peak", source="a guess: no GPU has run the engine"
    ),
    "l4-price": Assumption(
        value=0.67, unit="$ an L4 hour on Dataflow, beside its host", source=_REMEMBERED
    ),
    "l4-host-cores": Assumption(
        value=8, unit="vCPUs of the host of one L4", source="g2-standard-8"
    ),
    "v5e-most": Assumption(
        value=62,
        unit="documents/s at most on eight v5e chips, prompt and answer",
        source="docs/engine.md, a roofline of benchmarks/tpu_fit.py",
    ),
    "v5e-share-of-most": Assumption(
        value=0.5, unit="of that roofline", source="a guess: no TPU has run the engine"
    ),
    "v5e-chip": Assumption(
        value=1.2, unit="$ a v5e chip hour, host included", source=_REMEMBERED
    ),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
      what: Is paid for.
      formula: In the names of the assumptions.
      hours: Of one core, one GPU or one host of eight chips; 0 where time is not paid.
      dollars: For all documents.
    """

    what: str
    formula: str
    hours: float
    dollars: float


def lines(given: dict[str, float]) -> list[Line]:
    """The costs that assumptions lead to."""
    documents = given["documents"]
    host = given["core-price"] + given["memory-per-core"] * given["memory-price"]
    pages = documents * given["pages-per-document"]
    reading = pages / given["pages-per-core-second"] / given["core-busy"] / 3600
    tokens = documents * (
        given["passes"] * given["prompt-tokens"] + given["new-tokens"]
    )
    flop = 2 * given["parameters"] * tokens
    gpu = flop / (given["l4-peak"] * given["l4-share-of-peak"]) / 3600
    # The roofline is for a prompt and its answer; further readings count as whole ones.
    answered = given["v5e-most"] * given["v5e-share-of-most"]
    tpu = documents * given["passes"] / answered / 3600
    shuffled_gb = documents * given["shuffled-kb"] / 1e6
    return [
        Line(
            what="documents, on CPUs",
            formula="documents x pages-per-document / pages-per-core-second "
            "/ core-busy x (core-price + memory-per-core x memory-price)",
            hours=reading,
            dollars=reading * host,
        ),
        Line(
            what="shuffle",
            formula="documents x shuffled-kb x shuffle-price",
            hours=0,
            dollars=shuffled_gb * given["shuffle-price"],
        ),
        Line(
            what="candidates and scores, on L4 GPUs",
            formula="2 x parameters x documents x (passes x prompt-tokens + new-tokens)"
            " / (l4-peak x l4-share-of-peak) x (l4-price + l4-host-cores x "
            "(core-price + memory-per-core x memory-price))",
            hours=gpu,
            dollars=gpu * (given["l4-price"] + given["l4-host-cores"] * host),
        ),
        Line(
            what="or candidates and scores, on v5e TPUs",
            formula="documents x passes / (v5e-most x v5e-share-of-most) "
            "x 8 x v5e-chip",
            hours=tpu,
            dollars=tpu * 8 * given["v5e-chip"],
        ),
    ]


def table(given: dict[str, float]) -> str:
    """The costs as Markdown; hours are of a core, an L4, a host of eight chips."""
    rows = ["| | hours | $ |", "| --- | --- | --- |"]
    for line in lines(given):
        hours = f"{line.hours:,.0f}" if line.hours else ""
        rows.append(f"| {line.what} | {hours} | {line.dollars:,.2f} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, each in ASSUMPTIONS.items():
        parser.add_argument(f"--{name}", type=float, default=each.value, help=each.unit)
    options = vars(parser.parse_args(arguments))
    given = {name: options[name.replace("-", "_")] for name in ASSUMPTIONS}
    print("Assumptions, and where each comes from:\n")
    for name, each in ASSUMPTIONS.items():
        changed = given[name] != each.value
        source = "as you gave it" if changed else each.source
        print(f"  {name:22} {given[name]:>16,g}  {each.unit}\n{'':42}{source}")
    print(f"\nFor {given['documents']:,.0f} documents:\n\n{table(given)}\n")
    for line in lines(given):
        print(f"{line.what}:\n  {line.formula}")


if __name__ == "__main__":
    main()
