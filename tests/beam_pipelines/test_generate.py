import os

import apache_beam as beam
import pytest
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import generate, recipe
from tests.conftest import FakeEngine

SWAHILI = (
    "Chemsha maji kwa dakika tano kabla ya kunywa, kisha yahifadhi kwenye chombo safi "
    "chenye mfuniko. Usiingize mikono ndani ya maji."
)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("x" * 9, "instruction_too_short"),
        ("How long?!", None),
        ("Why is it so? " * 35 + "Tell me now", "instruction_too_long"),
        ("Chemsha maji kwa dakika tano kabla ya kunywa kila siku", "not_english"),
        ("पानी को कैसे उबालें और रखें?", "not_english"),
        ("How should drinking water be boiled and kept?", None),
        ("Summarize the following article in two lines.", "ill_posed"),
        ("Translate this text into Swahili.", "ill_posed"),
        ("Translate the sentence above.", "ill_posed"),
        ("What is the main idea of the passage above?", "ill_posed"),
        ("Open the link below and tell me what it says.", "ill_posed"),
        ("Find a video on boiling water.", "ill_posed"),
        ("Explain how to write a good article about water.", None),
        ("Tell me a story in which the village gets a well.", None),
        ("How do I link two bank accounts on my phone?", None),
    ],
)
def test_the_first_broken_rule_is_named(instruction, reason):
    assert generate.reject_reason(instruction, SWAHILI) == reason


def test_length_bounds_are_inclusive():
    sentence = "How do I keep clean water at home when the rains are late this year? "
    at_most = (sentence * 10)[: generate.MAX_CHARS]
    assert len(at_most) == 500
    assert generate.reject_reason(at_most, SWAHILI) is None
    over = f"{at_most}a"
    assert generate.reject_reason(over, SWAHILI) == "instruction_too_long"


def test_copying_more_than_half_is_rejected():
    response = "Keep the water in a clean pot with a lid and a tap near the bottom."
    copy = "Keep the water in a clean pot with a lid?"
    assert generate.copied_share(copy, response) == 1
    assert generate.reject_reason(copy, response) == "copies_response"
    # One 4-gram of five is shared.
    loose = "Tell me about a clean pot with handles"
    assert generate.copied_share(loose, response) == pytest.approx(1 / 5)
    assert generate.reject_reason(loose, response) is None


def test_usage_is_told_in_a_line_that_adds_up():
    counted = {"useful_tokens": 900, "row_tokens": 1000, "new_tokens": 30}
    counted |= {"device_ms": 1500, "model_gflop": 40, "peak_gflop": 100}
    assert generate.describe_usage(counted) == (
        "Engine: read 900 tokens and wrote 30 in 2 device seconds (600 tokens/s), "
        "90% of its rows useful, 40% of peak FLOP/s."
    )
    assert "peak" not in generate.describe_usage(counted | {"peak_gflop": 0})
    assert generate.describe_usage({}) == ""


class OneLoad(generate.EngineHandler):
    """A model that says in a file whenever it is loaded."""

    def __init__(self, log):
        super().__init__(recipe.Generator(checkpoint="none"), generate.Speed())
        self._log = log

    def load_model(self):
        with open(self._log, "a") as file:
            file.write(f"{os.getpid()}\n")
        return FakeEngine()

    def run_inference(self, batch, model, inference_args=None):
        model.embed(["a"])
        return [(element, os.getpid()) for element in batch]


def test_two_worker_processes_share_one_model(tmp_path):
    log, out = tmp_path / "loads", str(tmp_path / "out")
    flags = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing"]
    options = PipelineOptions([*flags, "--direct_num_workers=2"])
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(range(2000))
            | beam.Reshuffle()
            | RunInference(OneLoad(str(log)))
            | beam.MapTuple(lambda element, process: f"{element} {process}")
            | beam.io.WriteToText(out)
        )
    rows = [
        line.split()
        for file in tmp_path.glob("out*")
        for line in file.read_text().splitlines()
    ]
    assert sorted(int(element) for element, _ in rows) == list(range(2000))
    assert len({process for _, process in rows}) == 2
    assert len(log.read_text().split()) == 1
