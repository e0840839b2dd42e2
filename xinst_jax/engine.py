"""The engine: texts in; texts, scores or vectors out, as plain Python and NumPy.

Letters as in `model.py`; P is a decoding slot of a row, M a new token of an answer.

A document's way: `generate` → `_encode` (text → ids) → `_decoding_batches` (documents
of near lengths together) → `_prefill` (full rows of ids → keys and values in slots) →
`_insert` (into the cache) → `_decode` (one token a step for all slots) → text.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from xinst_jax.attention import SLOT_BLOCK, cached_attention, choose_kernel
from xinst_jax.config import ModelConfig, SamplingConfig
from xinst_jax.model import (
    Decoder,
    Windowed,
    chosen_logprobs,
    hidden_of_rows,
    last_states,
    mean_states,
    target_logprobs,
)
from xinst_jax.packing import Rows, RowShape, assign, fill, fill_targets
from xinst_jax.sampling import record_seed, sample
from xinst_jax.sharding import kv_copies, make_mesh, per_device, put_rows, spec
from xinst_jax.weights import load_tokenizer, load_weights

# Slots come in a few sizes: each is a program to compile, and its size bounds what
# attention and the cache waste on a document. The size is the batch's, that of its
# longest document, and changes no bit of a result; a row's tokens would, because the
# last bits of a matrix product depend on its shape, so they are one number.
_SLOT_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
_SMALLEST_DECODING_SLOT = 256  # decoding runs per size, so it wants few of them
_ROW_TOKENS = {"cpu": 2048}
_ROW_TOKENS_ELSEWHERE = 16_384
_DECODING_SLOTS = {"cpu": 32}  # per row
_MOST_DECODING_SLOTS = 256
# The cache is stacked over layers and scanned, as weights are. But on CPU a slice of it
# is a copy, which takes several times what attention on it does.
_STACKED_CACHE = {"cpu": False}
_LEAST_SLOT_TOKENS = 64  # of a document, on average, in rows of the smallest slots

# Peak rate of dense bfloat16 products, FLOP/s of one chip, as their makers state it.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What came of one prompt.

    Attributes:
      text: The decoded answer; "" where there is an error.
      tokens: Its ids, without the one that ended it.
      logprob: Summed natural log-probability of the answer as the model gives it,
        before temperature and filters, the end token included.
      stopped: Whether the model ended it; if not, `max_new_tokens` did.
      error: Why this prompt gave nothing, or None.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    stopped: bool
    error: str | None = None


@dataclasses.dataclass(slots=True, kw_only=True)
class Usage:
    """What the device did; sums, so that those of many calls and hosts add up.

    Attributes:
      useful_tokens: Tokens of documents that were read.
      row_tokens: Places for tokens in the rows they were read in.
      new_tokens: Tokens that were drawn for documents.
      seconds: In which the device had work.
      flops: What reading the documents takes by count (`ModelConfig.prefill_flops`).
      peak_flops: What the chips could have done in that time; 0 where it is not known.
    """

    useful_tokens: int = 0
    row_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    peak_flops: float = 0.0


class Engine:
    """A model, ready to answer. Calls from several threads take turns.

    A prompt's result does not depend on its batch, order or neighbours. Where the
    device's memory does not suffice, batches are halved and the call goes on.

    Args:
      model: The decoder, on its mesh.
      tokenizer: The checkpoint's.
      mesh: From `make_mesh`.
      max_prompt_tokens: The longest text that is taken.

    Attributes:
      config: The model's.
      max_prompt_tokens: As given, or what the model has positions for; generating also
        keeps `max_new_tokens` of those free.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        mesh: Mesh,
        max_prompt_tokens: int = 2048,
    ) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.max_prompt_tokens = min(
            max_prompt_tokens, _SLOT_TOKENS[-1], self.config.max_positions
        )
        self._lock = threading.Lock()
        self._usage = Usage()
        largest = -(-self.max_prompt_tokens // SLOT_BLOCK) * SLOT_BLOCK
        self._slot_tokens = [s for s in _SLOT_TOKENS if s < largest] + [largest]
        device = mesh.devices.flat[0]
        tokens = _ROW_TOKENS.get(device.platform, _ROW_TOKENS_ELSEWHERE)
        self._row_tokens = max(tokens, largest)
        slots = _DECODING_SLOTS.get(device.platform)
        if slots is None:
            slots = _slots_in_memory(model, mesh, largest, self._row_tokens)
        self._decoding_slots = slots
        stacked = _STACKED_CACHE.get(device.platform, True)
        self._cache_groups = 1 if stacked else self.config.layers
        self._peak_flops = mesh.size * PEAK_FLOPS.get(device.device_kind, 0)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dtype: str = "float32",
        mesh: Mesh | None = None,
        *,
        quantize: str | None = None,
        max_prompt_tokens: int = 2048,
    ) -> "Engine":
        """Reads a checkpoint folder in the Hugging Face layout.

        Programs are compiled once a machine and kept in JAX's compilation cache:
        `JAX_COMPILATION_CACHE_DIR`, or a folder in the user's cache.

        Args:
          path: With config.json, safetensors and tokenizer.json.
          dtype: "float32" or "bfloat16", of weights and activations.
          mesh: From `make_mesh`; by default the first device.
          quantize: "int8" or "fp8" keeps the layers' matrices, and multiplies with
            them, in eight bits.
          max_prompt_tokens: The longest text that is taken.

        Raises:
          FileNotFoundError: A file is missing.
          ValueError: The checkpoint is of a kind that is not built here, its tensors
            do not match its config, or a size does not divide by the mesh.
        """
        use_compilation_cache()
        mesh = mesh or make_mesh()
        config = ModelConfig.from_checkpoint(path)
        weights = load_weights(path, config, dtype, mesh, quantize=quantize)
        kernel = choose_kernel(mesh.devices.flat[0].platform, config, dtype)
        model = Decoder(config, weights, kernel)
        return cls(model, load_tokenizer(path), mesh, max_prompt_tokens)

    def warm_up(self, call: Callable[[list[list[int]]], Any]) -> None:
        """Compiles whatever a call needs, so that nothing is compiled later.

        Args:
          call: Given prompts, makes the call: `lambda prompts: engine.embed(prompts)`.
            It is made for each size of slot, and for each size after a larger one.
        """
        rows = self.mesh.shape["data"]
        # An answer needs positions too, which its prompt must leave free.
        longest = max(1, self.max_prompt_tokens - self.max_prompt_tokens // 8)
        sizes = sorted({min(size, longest) for size in self._slot_tokens})
        for i, large in enumerate(sizes):
            full = [[0] * large] * (rows * (self._row_tokens // large))
            for small in sizes[: i + 1]:
                # Too many for the gaps: the last rows have slots of their size.
                call(full + [[0] * small] * (rows * (large // small + 1)))
        self.take_usage()

    def take_usage(self) -> Usage:
        """What the device did since this was last called."""
        with self._lock:
            usage, self._usage = self._usage, Usage()
        return usage

    def generate(
        self,
        prompts: Sequence[Any],
        sampling: SamplingConfig | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Generation]:
        """Continues each prompt.

        Args:
          prompts: Texts, or lists of token ids.
          sampling: Greedy by default.
          ids: Each seeds its prompt's sampling; by default the prompt's own tokens.

        Returns:
          One result a prompt, in order. A prompt that is empty, too long, of a wrong
          type, or of which the model makes no numbers brings an error of its own and
          costs the others nothing.

        Raises:
          ValueError: `max_new_tokens` leaves no position for a prompt, or there are
            not as many ids as prompts.
        """
        sampling = sampling or SamplingConfig()
        longest = self.config.max_positions - sampling.max_new_tokens
        if longest < 1:
            raise ValueError(
                f"max_new_tokens={sampling.max_new_tokens} leaves no room for a "
                f"prompt: the model has {self.config.max_positions} positions."
            )
        if ids is not None and len(ids) != len(prompts):
            raise ValueError(f"Got {len(prompts)} prompts and {len(ids)} ids.")
        documents, errors = self._encode(prompts, longest)
        results = {i: _failed(error) for i, error in errors.items()}
        seeds = {
            i: record_seed(np.asarray(d, np.int32).tobytes() if ids is None else ids[i])
            for i, d in documents.items()
        }

        def work() -> None:
            waiting = {i: d for i, d in documents.items() if i not in results}
            batches = self._decoding_batches(waiting)
            batch = next(batches, None)
            while batch is not None:
                out = self._launch(batch, seeds, sampling)
                # The next batch is packed while the device works on this one.
                following = next(batches, None)
                self._collect(batch, out, results)
                batch = following

        self._on_device(work)
        return [results[i] for i in range(len(prompts))]

    def score(
        self, prompts: Sequence[Any], labels: Sequence[str]
    ) -> Float[np.ndarray, "prompts labels"]:
        """Natural log-probability of each label right after each prompt.

        A label is tokenised by itself and appended: its tokens do not depend on how
        the prompt ends. Labels of several tokens are summed over them.

        Returns:
          Rows of NaN for prompts that cannot be read: empty, too long, a wrong type.

        Raises:
          ValueError: There is no label, or one has no tokens.
        """
        targets = self._encode_targets(labels)
        if max(map(len, targets)) > 1:
            pairs = [(prompt, label) for prompt in prompts for label in labels]
            flat = self.loglikelihood([p for p, _ in pairs], [t for _, t in pairs])
            return flat.reshape(len(prompts), len(labels))
        tokens = np.asarray([target[0] for target in targets], np.int32)
        scores = np.full((len(prompts), len(labels)), np.nan, np.float32)
        documents, _ = self._encode(prompts, self.max_prompt_tokens)
        for row, values in self._run(
            documents, lambda m, rows, *_: _score_rows(m, rows, tokens)
        ):
            scores[row] = values[: len(row)]
        return scores

    def loglikelihood(
        self, prompts: Sequence[Any], targets: Sequence[Any]
    ) -> Float[np.ndarray, " prompts"]:
        """Summed natural log-probability of each target after its prompt.

        Args:
          prompts: Texts, or lists of token ids.
          targets: As many; texts are tokenised by themselves.

        Returns:
          NaN for pairs that cannot be read: empty, together too long, a wrong type.
        """
        if len(prompts) != len(targets):
            raise ValueError(f"Got {len(prompts)} prompts and {len(targets)} targets.")
        scores = np.full(len(prompts), np.nan, np.float32)
        starts, _ = self._encode(prompts, self.max_prompt_tokens - 1)
        ends, _ = self._encode(targets, self.max_prompt_tokens - 1, special=False)
        documents = {
            i: [*starts[i], *ends[i]]
            for i in starts.keys() & ends.keys()
            if len(starts[i]) + len(ends[i]) <= self.max_prompt_tokens
        }

        def program(model: Decoder, packed: Rows, rows: Any, shape: RowShape) -> Any:
            texts = [[documents[i] for i in row] for row in rows]
            lens = [[len(starts[i]) for i in row] for row in rows]
            index, ids = fill_targets(texts, lens, shape, shape.tokens)
            return _target_rows(model, packed, *put_rows((index, ids), self.mesh))

        for row, logprobs in self._run(documents, program):
            used = 0
            for i in row:
                scores[i] = logprobs[used : used + len(ends[i])].sum()
                used += len(ends[i])
        return scores

    def embed(self, texts: Sequence[Any]) -> Float[np.ndarray, "texts width"]:
        """The mean over each text's tokens of the final hidden states, float32.

        Returns:
          Rows of NaN for texts that cannot be read: empty, too long, a wrong type.
        """
        vectors = np.full((len(texts), self.config.width), np.nan, np.float32)
        documents, _ = self._encode(texts, self.max_prompt_tokens)
        for row, values in self._run(
            documents, lambda m, rows, *_: _embed_rows(m, rows)
        ):
            vectors[row] = values[: len(row)]
        return vectors

    def logits(
        self, tokens: Int[np.ndarray, "B S"], lengths: Int[np.ndarray, " B"]
    ) -> Float[np.ndarray, "B S V"]:
        """Every position's logits, float32, to look at; zeros past `lengths`.

        Raises:
          ValueError: A length or a token id is out of range.
        """
        given = [
            [int(t) for t in row[:n]] for row, n in zip(tokens, lengths, strict=True)
        ]
        documents, errors = self._encode(given, self.max_prompt_tokens)
        for i, error in errors.items():
            raise ValueError(f"Row {i}: {error}.")
        logits = np.zeros((*tokens.shape, self.config.vocabulary), np.float32)
        for row, values in self._run(
            documents, lambda m, rows, *_: _logit_rows(m, rows)
        ):
            start = 0
            for i in row:
                end = start + len(documents[i])
                logits[i, : end - start] = values[start:end]
                start = end
        return logits

    def _encode(
        self, prompts: Sequence[Any], longest: int, *, special: bool = True
    ) -> tuple[dict[int, list[int]], dict[int, str]]:
        """Token ids of each prompt that can be used, and why the others cannot."""
        longest = min(longest, self.max_prompt_tokens)
        texts = {i: p for i, p in enumerate(prompts) if isinstance(p, str)}
        errors: dict[int, str] = {}
        for i, text in list(texts.items()):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                errors[i] = f"prompt is not Unicode text ({error.reason})"
                del texts[i]
        encoded = self.tokenizer.encode_batch(
            list(texts.values()), add_special_tokens=special
        )
        documents = {i: e.ids for i, e in zip(texts, encoded, strict=True)}
        for i, prompt in enumerate(prompts):
            if i in errors or i in texts:
                continue
            try:
                documents[i] = [t.__index__() for t in prompt]
            except (TypeError, AttributeError):
                errors[i] = f"prompt is neither text nor token ids: {type(prompt)}"
        for i, document in list(documents.items()):
            if not document or prompts[i] == "":
                errors[i] = "prompt is empty"
            elif len(document) > longest:
                errors[i] = (
                    f"prompt has {len(document):,} tokens, "
                    f"the engine takes at most {longest:,}"
                )
            elif not 0 <= min(document) <= max(document) < self.config.vocabulary:
                last = self.config.vocabulary - 1
                errors[i] = f"prompt has a token id outside 0..{last}"
            if i in errors:
                del documents[i]
        return documents, errors

    def _encode_targets(self, labels: Sequence[str]) -> list[list[int]]:
        targets = [
            self.tokenizer.encode(x, add_special_tokens=False).ids for x in labels
        ]
        if not targets or not all(targets):
            raise ValueError(f"Labels need tokens, got {list(labels)}.")
        return targets

    def _shape(self, longest: int, smallest: int, most_slots: int) -> RowShape:
        """Rows whose slots hold documents of up to `longest` tokens."""
        enough = max(longest, min(smallest, self._slot_tokens[-1]))
        size = next(s for s in self._slot_tokens if s >= enough)
        # As many slots as there are documents, if each fills more than half of its own.
        slots = self._row_tokens // max(size // 2, _LEAST_SLOT_TOKENS)
        return RowShape(
            rows=self.mesh.shape["data"],
            tokens=self._row_tokens,
            slots=min(slots, most_slots),
            slot_tokens=size,
        )

    def _packed(
        self, documents: Mapping[int, list[int]], smallest: int = 0, most: int = 1 << 30
    ) -> Iterator[tuple[RowShape, list[list[int]]]]:
        """All documents in full rows: the longest first, and shorter ones in the gaps.

        The longest decides the size of the slots.
        """
        waiting = sorted(documents, key=lambda i: (-len(documents[i]), i))
        while waiting:
            shape = self._shape(len(documents[waiting[0]]), smallest, most)
            rows, left = assign([len(documents[i]) for i in waiting], shape)
            yield shape, [[waiting[j] for j in row] for row in rows]
            waiting = [waiting[j] for j in left]

    def _decoding_batches(
        self, documents: Mapping[int, list[int]]
    ) -> Iterator["_DecodingBatch"]:
        """Documents that are decoded together, each batch with what prefills it."""
        batch: _DecodingBatch | None = None
        num_slots = self._decoding_slots
        for shape, rows in self._packed(documents, _SMALLEST_DECODING_SLOT, num_slots):
            if batch is not None and not batch.has_room_for(rows):
                yield batch
                batch = None
            if batch is None:
                # Later rows hold shorter documents, so its slots are large enough.
                batch = _DecodingBatch(shape.rows, num_slots, shape.slot_tokens)
            batch.add(shape, rows, documents)
        if batch is not None:
            yield batch

    def _launch(
        self,
        batch: "_DecodingBatch",
        seeds: Mapping[int, int],
        sampling: SamplingConfig,
    ) -> tuple[Array, Array, Array, Array]:
        """Enqueues the prefills and the decoding of one batch."""
        num_rows, num_slots = len(batch.held), batch.num_slots
        size = num_rows, num_slots, batch.slot_tokens
        cache = _empty_cache(self.model, *size, self._cache_groups)
        for rows, places in batch.prefills:
            prefilled = _prefill(self.model, put_rows(rows, self.mesh))
            cache = _insert(cache, prefilled, put_rows(places, self.mesh))
            self._usage.row_tokens += rows.tokens.size
        lens, records, used = batch.slots(seeds)
        put = put_rows((lens, records, used), self.mesh)
        text = None
        if sampling.no_repeat_ngram:
            text = put_rows(batch.text(sampling.max_new_tokens), self.mesh)
        return _decode(self.model, cache, *put, text, sampling)

    def _collect(
        self,
        batch: "_DecodingBatch",
        out: tuple[Array, Array, Array, Array],
        results: dict[int, Generation],
    ) -> None:
        """Waits for a batch and reads its answers."""
        tokens, counts, logprobs, stopped = map(np.asarray, out)
        for r, held in enumerate(batch.held):
            for p, (i, document) in enumerate(held):
                self._count(document)
                self._usage.new_tokens += int(counts[r, p])
                if not np.isfinite(logprobs[r, p]):
                    results[i] = _failed("the model gave no finite probability")
                    continue
                ids = tokens[r, p, : counts[r, p] - stopped[r, p]].tolist()
                results[i] = Generation(
                    text=self.tokenizer.decode(ids),
                    tokens=tuple(ids),
                    logprob=float(logprobs[r, p]),
                    stopped=bool(stopped[r, p]),
                )

    def _run(
        self,
        documents: Mapping[int, list[int]],
        program: Callable[[Decoder, Rows, list[list[int]], RowShape], jax.Array],
    ) -> list[tuple[list[int], np.ndarray]]:
        """What `program` makes of packed documents, given with those in each row."""
        results: list[tuple[list[int], np.ndarray]] = []

        def work() -> None:
            results.clear()
            # All is enqueued before the first is read, so that the device never waits.
            launched = []
            for shape, rows in self._packed(documents):
                texts = [[documents[i] for i in row] for row in rows]
                packed = put_rows(fill(texts, shape), self.mesh)
                launched.append((rows, program(self.model, packed, rows, shape)))
                self._usage.row_tokens += shape.rows * shape.tokens
            for rows, out in launched:
                results.extend(zip(rows, np.asarray(out), strict=True))
            for document in documents.values():
                self._count(document)

        if documents:
            self._on_device(work)
        return results

    def _on_device(self, work: Callable[[], None]) -> None:
        """Does `work` when it is its turn; smaller, where memory does not suffice."""
        # Accelerators round the factors of float32 products unless they are asked.
        exact = self.model.embedding.dtype == jnp.float32
        precision = jax.default_matmul_precision("highest" if exact else None)
        with self._lock, jax.set_mesh(self.mesh), precision:
            started = time.monotonic()
            while True:
                try:
                    work()
                    break
                except jax.errors.JaxRuntimeError as error:
                    full = "RESOURCE_EXHAUSTED" in str(error)
                    if not full or not self._halve():
                        raise
            seconds = time.monotonic() - started
            self._usage.seconds += seconds
            self._usage.peak_flops += seconds * self._peak_flops

    def _halve(self) -> bool:
        """Makes batches smaller from now on; whether they could be."""
        before = self._decoding_slots, self._row_tokens
        self._decoding_slots = max(1, self._decoding_slots // 2)
        self._row_tokens = max(self._slot_tokens[-1], self._row_tokens // 2)
        return before != (self._decoding_slots, self._row_tokens)

    def _count(self, document: Sequence[int]) -> None:
        self._usage.useful_tokens += len(document)
        self._usage.flops += self.config.prefill_flops([len(document)])


class _DecodingBatch:
    """Documents that are decoded together: what prefills them, and their slots.

    Args:
      num_rows: R.
      num_slots: P, of a row.
      slot_tokens: S, the longest prompt.
    """

    def __init__(self, num_rows: int, num_slots: int, slot_tokens: int) -> None:
        self.num_slots = num_slots
        self.slot_tokens = slot_tokens
        self.held: list[list[tuple[int, list[int]]]] = [[] for _ in range(num_rows)]
        self.prefills: list[tuple[Rows, Int[np.ndarray, "R C"]]] = []

    def has_room_for(self, rows: Sequence[Sequence[int]]) -> bool:
        return all(
            len(held) + len(row) <= self.num_slots
            for held, row in zip(self.held, rows, strict=True)
        )

    def add(
        self,
        shape: RowShape,
        rows: Sequence[Sequence[int]],
        documents: Mapping[int, list[int]],
    ) -> None:
        """Takes in packed documents; `places` says which slot each comes to."""
        places = np.full((shape.rows, shape.slots), self.num_slots, np.int32)
        for r, row in enumerate(rows):
            places[r, : len(row)] = len(self.held[r]) + np.arange(len(row))
            self.held[r] += [(i, documents[i]) for i in row]
        texts = [[documents[i] for i in row] for row in rows]
        self.prefills.append((fill(texts, shape), places))

    def slots(self, seeds: Mapping[int, int]) -> tuple[np.ndarray, ...]:
        """For each slot: its document's tokens, its seed, and whether it has one."""
        lens = np.ones((len(self.held), self.num_slots), np.int32)
        records = np.zeros(lens.shape, np.uint32)
        used = np.zeros(lens.shape, bool)
        for r, held in enumerate(self.held):
            lens[r, : len(held)] = [len(document) for _, document in held]
            records[r, : len(held)] = [seeds[i] for i, _ in held]
            used[r, : len(held)] = True
        return lens, records, used

    def text(self, max_new_tokens: int) -> Int[np.ndarray, "R P length"]:
        """Each slot's prompt, with room for the answer right after it."""
        length = self.slot_tokens + max_new_tokens
        text = np.zeros((len(self.held), self.num_slots, length), np.int32)
        for r, held in enumerate(self.held):
            for p, (_, document) in enumerate(held):
                text[r, p, : len(document)] = document
        return text


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs in a folder, unless it does so already."""
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(root) / "xinst_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _failed(error: str) -> Generation:
    return Generation(
        text="", tokens=(), logprob=float("nan"), stopped=False, error=error
    )


def _slots_in_memory(
    model: Decoder, mesh: Mesh, slot_tokens: int, row_tokens: int
) -> int:
    """How many documents' keys and values the device can hold, a power of two."""
    config = model.config
    device = mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return _MOST_DECODING_SLOTS
    heads = config.kv_heads * kv_copies(config, mesh) // mesh.shape["model"]
    per_token = 2 * config.layers * heads * config.head_width
    per_token *= model.embedding.dtype.itemsize
    free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    # Beside the cache are the keys and values of one row, in slots that are half full;
    # and a quarter is left to what programs need while they run.
    room = 0.75 * free - per_token * 2 * row_tokens
    slots = min(_MOST_DECODING_SLOTS, int(room / (per_token * slot_tokens)))
    return 1 << (max(1, slots).bit_length() - 1)


@jax.jit
def _score_rows(
    model: Decoder, rows: Rows, labels: Int[Array, " labels"]
) -> Float[Array, "R C labels"]:
    x, _ = hidden_of_rows(model, rows)
    states = last_states(x, rows)
    # As many for every size of slot: the product's shape decides its last bits.
    num_slots = x.shape[1] // _LEAST_SLOT_TOKENS
    states = jnp.pad(states, ((0, 0), (0, num_slots - states.shape[1]), (0, 0)))
    logits = _whole(model.logits(states))
    return logits[:, :, labels] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


@jax.jit
def _target_rows(
    model: Decoder, rows: Rows, index: Int[Array, "R Q"], ids: Int[Array, "R Q"]
) -> Float[Array, "R Q"]:
    x, _ = hidden_of_rows(model, rows)
    return target_logprobs(model, x, index, ids)


@jax.jit
def _embed_rows(model: Decoder, rows: Rows) -> Float[Array, "R C D"]:
    x, _ = hidden_of_rows(model, rows)
    return mean_states(x, rows)


@jax.jit
def _logit_rows(model: Decoder, rows: Rows) -> Float[Array, "R T V"]:
    x, _ = hidden_of_rows(model, rows)
    return model.logits(x)


_CACHE_OF_LAYER = spec("row", None, "heads", None, None)
_CACHE = spec(None, "row", None, "heads", None, None)


def _whole(logits: Float[Array, "R P V"]) -> Float[Array, "R P V"]:
    """The vocabulary gathered on every device of a row, for what sorts or picks."""
    return jax.sharding.reshard(logits, spec("row", None, None))


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _empty_cache(
    model: Decoder, rows: int, slots: int, size: int, groups: int
) -> dict[str, Any]:
    """Room for the prompts of all decoding slots.

    Returns:
      For each group of layers its keys [L, R, P, K, H, S] and values [L, R, P, K, S, H]
      as "kv", and each prompt's last state [R, P, D].
    """
    config = model.config
    heads = config.kv_heads * kv_copies(config, jax.sharding.get_abstract_mesh())
    width = config.head_width
    zeros = partial(jnp.zeros, dtype=model.embedding.dtype)
    many = config.layers // groups, rows, slots, heads
    return {
        "kv": tuple(
            (
                zeros((*many, width, size), out_sharding=_CACHE),
                zeros((*many, size, width), out_sharding=_CACHE),
            )
            for _ in range(groups)
        ),
        "last": zeros(
            (rows, slots, config.width), out_sharding=spec("row", None, None)
        ),
    }


@jax.jit
def _prefill(model: Decoder, rows: Rows) -> dict[str, Any]:
    """A cache of packed prompts, in their own slots, and their last states."""
    x, kv = hidden_of_rows(model, rows, keep_cache=True)
    return {"kv": kv, "last": last_states(x, rows)}


@partial(jax.jit, donate_argnums=0)
def _insert(
    cache: dict[str, Any], prefilled: dict[str, Any], places: Int[Array, "R C"]
) -> dict[str, Any]:
    """Puts prompts into the cache's slots `places`; those past its end drop."""

    # One slot after the other: a scatter would copy all that is put.
    def keep(old: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
        """`[L, R, P, ...]`, `[L, R, C, ...]` of slots as long or shorter, `[R, C]`."""
        last = old.shape[2] - 1

        def put_slot(c: jax.Array, old: jax.Array) -> jax.Array:
            for r in range(old.shape[1]):
                one = jax.lax.dynamic_slice_in_dim(new[:, r : r + 1], c, 1, 2)
                slot = jnp.minimum(at[r, c], last)
                start: tuple[Any, ...] = (0, r, slot, *(0,) * (old.ndim - 3))
                before = jax.lax.dynamic_slice(old, start, one.shape)
                one = jnp.where(at[r, c] <= last, one, before)
                old = jax.lax.dynamic_update_slice(old, one, start)
            return old

        return jax.lax.fori_loop(0, new.shape[2], put_slot, old)

    def keep_last(old: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
        return keep(old[None], new[None], at)[0]

    states, index = spec("row", None, None), spec("row", None)
    put = per_device(keep, (_CACHE, _CACHE, index), _CACHE)
    put_last = per_device(keep_last, (states, states, index), states)
    size = len(prefilled["kv"][0]) // len(cache["kv"])
    return {
        "kv": tuple(
            tuple(
                put(old, new[i * size : (i + 1) * size], places)
                for old, new in zip(group, prefilled["kv"], strict=True)
            )
            for i, group in enumerate(cache["kv"])
        ),
        "last": put_last(cache["last"], prefilled["last"], places),
    }


@partial(jax.jit, static_argnums=6)
def _decode(
    model: Decoder,
    cache: dict[str, Any],
    lens: Int[Array, "R P"],
    records: Array,
    used: Array,
    text: Int[Array, "R P length"] | None,
    sampling: SamplingConfig,
) -> tuple[Array, Array, Array, Array]:
    """Draws tokens in all slots until each has ended.

    Args:
      model: The decoder.
      cache: What `_prefill` filled.
      lens: Tokens of each prompt.
      records: `record_seed` of each prompt.
      used: Whether a slot holds one.
      text: Prompts with room for the answers, where no n-gram may come twice.
      sampling: How tokens are drawn.

    Returns:
      Tokens [R, P, max_new_tokens], how many of them count, their summed
      log-probability, and whether the last is an end token, each [R, P].
    """
    by_row, by_slot = spec("row", None), spec("row", None, None)
    heads, cached = spec("row", None, "heads", None), _CACHE_OF_LAYER
    two, in_blocks = (heads, heads), spec("row", None, "heads", None, None, None)
    # Values in blocks, as attention sums them. Reshaped within the loop, each layer's
    # would be copied on TPU in every step.
    stacked = spec(None, "row", None, "heads", None, None, None)

    def blocks(v: jax.Array) -> jax.Array:
        shape = *v.shape[:4], v.shape[4] // SLOT_BLOCK, SLOT_BLOCK, v.shape[5]
        # Stated, because a split of size 1 would else move on to another such axis.
        return jnp.reshape(v, shape, out_sharding=stacked)

    prompts = tuple((k, blocks(v)) for k, v in cache["kv"])
    ends = jnp.asarray(model.config.eos, jnp.int32)

    def draw_here(
        logits: jax.Array, records: jax.Array, step: jax.Array, *seen: jax.Array
    ) -> jax.Array:
        flat = [a.reshape(-1, *a.shape[2:]) for a in (logits, records, *seen)]
        drawn = sample(flat[0], flat[1], step, sampling, *flat[2:])
        return drawn.reshape(records.shape).astype(jnp.int32)

    def draw(
        x: jax.Array, step: jax.Array, text: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        logits = _whole(model.logits(x))
        seen = () if text is None else (text, lens + step)
        specs = () if text is None else (by_slot, by_row)
        tokens = per_device(draw_here, (by_slot, by_row, spec(), *specs), by_row)(
            logits, records, step, *seen
        )
        return tokens, chosen_logprobs(logits, tokens)

    def is_end(tokens: jax.Array) -> jax.Array:
        return (tokens[:, :, None] == ends[None, None]).any(-1)

    def written(text: jax.Array | None, tokens: jax.Array, step: Any) -> Any:
        if text is None:
            return None
        here = jnp.arange(text.shape[2])[None, None] == (lens + step)[:, :, None]
        return jnp.where(here, tokens[:, :, None], text)

    def advance(state: dict[str, Any]) -> dict[str, Any]:
        step = state["step"]

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, memory: Any, windowed: Windowed
        ) -> tuple[jax.Array, Any]:
            prompt, suffix = memory
            attend_here = per_device(
                partial(cached_attention, windowed=windowed, how=model.how),
                (heads, two, (cached, in_blocks), (cached, cached), by_row, spec()),
                heads,
            )
            return attend_here(q, (k, v), prompt, suffix, lens, step - 1), (k, v)

        memory = tuple(zip(prompts, state["suffix"], strict=True))
        x, kept = model.hidden(state["last"], lens + step - 1, attend, memory)
        write = jax.lax.dynamic_update_slice_in_dim
        suffix = tuple(
            (
                write(old_k, k[..., None], step - 1, 5),
                write(old_v, v[:, :, :, :, None], step - 1, 4),
            )
            for (old_k, old_v), (k, v) in zip(state["suffix"], kept, strict=True)
        )
        tokens, logprob = draw(x, step, state["text"])
        live = ~state["done"]
        return {
            "step": step + 1,
            "suffix": suffix,
            "last": tokens,
            "tokens": jax.lax.dynamic_update_slice_in_dim(
                state["tokens"], tokens[:, :, None], step, 2
            ),
            "text": written(state["text"], tokens, step),
            "count": state["count"] + live,
            "logprob": state["logprob"] + jnp.where(live, logprob, 0),
            "done": state["done"] | is_end(tokens),
            "stopped": state["stopped"] | (live & is_end(tokens)),
        }

    def unfinished(state: dict[str, Any]) -> jax.Array:
        return (state["step"] < sampling.max_new_tokens) & ~state["done"].all()

    first, logprob = draw(cache["last"], jnp.int32(0), text)
    rows, slots, size = *lens.shape, sampling.max_new_tokens
    suffix = _empty_cache(model, rows, slots, size, len(cache["kv"]))
    tokens = jnp.zeros((rows, slots, size), jnp.int32, out_sharding=by_slot)
    state = {
        "step": jnp.int32(1),
        "suffix": suffix["kv"],
        "last": first,
        "tokens": tokens.at[:, :, 0].set(first),
        "text": written(text, first, 0),
        "count": jnp.ones_like(lens),
        "logprob": logprob,
        "done": ~used | is_end(first),
        "stopped": is_end(first),
    }
    state = jax.lax.while_loop(unfinished, advance, state)
    return state["tokens"], state["count"], state["logprob"], state["stopped"]
