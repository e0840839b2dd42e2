import os

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import generate, recipe
from tests.conftest import FakeEngine


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


def test_a_model_is_loaded_once_and_only_when_it_is_asked():
    loads = []
    model = generate.OnDemand(lambda: loads.append(1) or FakeEngine())
    assert not loads
    for _ in range(3):
        assert model.embed(["a"]).shape == (1, 8)
    assert loads == [1]
