"""Instructions for documents: the model behind RunInference."""

import abc
import dataclasses
import threading
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import PCollection

from beam_pipelines.recipe import Evaluator, Generator
from beam_pipelines.schema import Candidate, Document
from beam_pipelines.store import spend

if typing.TYPE_CHECKING:
    from xinst_jax import Engine, SamplingConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How the engine is used. None of it changes what comes out.

    Attributes:
      batch_size: Elements that the engine is handed at a time; it packs them itself.
      model_parallel: Devices that one copy of a model is split over. The others of a
        host take documents side by side.
      accelerator: What the steps with a model ask the runner for, in its own words;
        empty: nothing.
    """

    batch_size: int = 256
    model_parallel: int = 1
    accelerator: str = ""


class OnDemand:
    """A model that is loaded when it is asked for the first time.

    A pass whose results are all in the store then loads none: the accelerators need
    not hold the models of every round of refinement at once.

    Args:
      open_model: Loads it.
    """

    def __init__(self, open_model: Callable[[], Any]) -> None:
        self._open_model = open_model
        self._model: Any = None
        self._lock = threading.Lock()

    def generate(self, *args: Any) -> Any:
        """As `Engine.generate`."""
        return self._get().generate(*args)

    def embed(self, *args: Any) -> Any:
        """As `Engine.embed`."""
        return self._get().embed(*args)

    def judge(self, *args: Any) -> Any:
        """As `Judge.judge`."""
        return self._get().judge(*args)

    def take_usage(self) -> Any:
        """As `Engine.take_usage`."""
        return self._get().take_usage()

    def _get(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._open_model()
            return self._model


class EngineHandler(ModelHandler[Any, Any, Any]):
    """A model on the accelerators of a host, one for all of its worker processes.

    Args:
      settings: Which model, and how it is run.
      speed: Batches and devices.
    """

    def __init__(self, settings: Generator | Evaluator, speed: Speed) -> None:
        # Fixed: sizes that adapt to timing would split the store's parts at random.
        super().__init__(
            min_batch_size=speed.batch_size,
            max_batch_size=speed.batch_size,
            large_model=True,
        )
        self._settings = settings
        self._speed = speed

    def load_model(self) -> "OnDemand":
        return OnDemand(self.open_model)

    def open_model(self) -> Any:
        """The model itself, in the process that owns the accelerators."""
        # Imported here: only the process that owns the accelerators may start JAX.
        import jax

        from xinst_jax import Engine
        from xinst_jax.sharding import make_mesh

        settings, parallel = self._settings, self._speed.model_parallel
        engine = Engine.load(
            settings.checkpoint,
            dtype=settings.dtype,
            mesh=make_mesh(max(1, jax.device_count() // parallel), parallel),
            quantize=settings.quantize or None,
            max_prompt_tokens=settings.max_prompt_tokens,
        )
        if jax.default_backend() != "cpu":
            # There compiling takes seconds a program, and accelerators are paid for.
            self.warm_up(engine)
        return engine

    def warm_up(self, engine: "Engine") -> None:
        """Compiles what this handler's calls need."""

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        # A metric; by default every batch would be pickled for it.
        return 0

    def step(self, model: str) -> beam.PTransform:
        """The step that runs the model; it alone asks for an accelerator.

        Args:
          model: Names the model, so that steps of a pipeline share it.
        """
        step: beam.PTransform = RunInference(self, model_identifier=model)
        if self._speed.accelerator:
            step = step.with_resource_hints(accelerator=self._speed.accelerator)
        return step


class BatchHandler(EngineHandler):
    """A batch in, the list of its results out: they are committed together."""

    def should_skip_batching(self) -> bool:
        # Who commits them has cut them.
        return True

    def run_inference(
        self,
        batch: Sequence[Any],
        model: OnDemand,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[list[Any]]:
        yield list(self.results(batch, model))

    @abc.abstractmethod
    def results(self, batch: Sequence[Any], model: OnDemand) -> Iterable[Any]:
        """One for each element, in their order."""


def count_usage(engine: OnDemand) -> None:
    """Adds what the engine did since the last time to Beam's metrics, and to the store.

    Counters, so that those of many workers add up: the share of useful tokens is
    useful_tokens / row_tokens, the utilisation of the chips model_gflop / peak_gflop.
    """
    usage = engine.take_usage()
    tokens = usage.useful_tokens + usage.new_tokens
    spend(tokens=tokens, device_seconds=round(usage.seconds, 3))
    for name, value in (
        ("useful_tokens", usage.useful_tokens),
        ("row_tokens", usage.row_tokens),
        ("new_tokens", usage.new_tokens),
        ("device_ms", usage.seconds * 1e3),
        ("model_gflop", usage.flops / 1e9),
        ("peak_gflop", usage.peak_flops / 1e9),
    ):
        Metrics.counter("engine", name).inc(round(value))


def describe_usage(counted: Mapping[str, int]) -> str:
    """What `count_usage` counted, in a line; empty if no model ran."""
    if not counted.get("device_ms") or not counted.get("row_tokens"):
        return ""
    seconds, read = counted["device_ms"] / 1e3, counted["useful_tokens"]
    line = (
        f"Engine: read {read:,} tokens and wrote {counted['new_tokens']:,} in "
        f"{seconds:,.0f} device seconds ({read / seconds:,.0f} tokens/s), "
        f"{read / counted['row_tokens']:.0%} of its rows useful"
    )
    if counted.get("peak_gflop"):
        line += f", {counted['model_gflop'] / counted['peak_gflop']:.0%} of peak FLOP/s"
    return f"{line}."


class GenerateInstructions(beam.PTransform):
    """A candidate for every document of every batch; without a whole one, it says why.

    Args:
      settings: Checkpoint and decoding.
      seed: Of the sampling.
      digest: Hash of checkpoint and decoding.
      model: Names the model, so that steps of a pipeline share it.
      speed: Batches and devices.
      number: Of several candidates for a document, which one.
    """

    def __init__(
        self,
        settings: Generator,
        seed: int,
        digest: str,
        model: str,
        speed: Speed,
        number: int = 0,
    ) -> None:
        super().__init__()
        self._handler = InstructionHandler(settings, seed, digest, speed, number)
        self._model = model

    def expand(
        self, batches: PCollection[list[Document]]
    ) -> PCollection[list[Candidate]]:
        return batches | self._handler.step(self._model)


class InstructionHandler(BatchHandler):
    """Documents in, candidates out."""

    _settings: Generator

    def __init__(
        self, settings: Generator, seed: int, digest: str, speed: Speed, number: int
    ) -> None:
        super().__init__(settings, speed)
        self._seed = seed
        self._digest = digest
        # Randomness comes from ids, so other ids give other candidates.
        self._suffix = f"#{number}" if number else ""

    def results(
        self, batch: Sequence[Document], model: OnDemand
    ) -> Iterable[Candidate]:
        from xinst_jax import prompts

        limit = self._settings.max_text_chars
        generations = model.generate(
            [prompts.generate(document.text[:limit]) for document in batch],
            self._sampling(),
            [f"{document.id}{self._suffix}" for document in batch],
        )
        count_usage(model)
        for document, generation in zip(batch, generations, strict=True):
            instruction = " ".join(generation.text.split())
            reason = generation.error and f"failed: {generation.error}"
            if not reason and not generation.stopped:
                reason = "unfinished"
            yield Candidate(
                document=document,
                instruction=instruction,
                generator=self._digest,
                logprob=round(float(generation.logprob), 4),
                rejected=reason or "",
            )

    def warm_up(self, engine: "Engine") -> None:
        engine.warm_up(lambda prompts: engine.generate(prompts, self._sampling()))

    def _sampling(self) -> "SamplingConfig":
        from xinst_jax import SamplingConfig

        settings = self._settings
        return SamplingConfig(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            no_repeat_ngram=settings.no_repeat_ngram,
            seed=self._seed,
        )
