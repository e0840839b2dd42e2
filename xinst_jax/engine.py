"""The engine: texts in; texts, scores or vectors out, as plain Python and NumPy.

Letters as in `model.py`; P is a decoding slot of a row.
"""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from xinst_jax.attention import cached_attention
from xinst_jax.config import ModelConfig, SamplingConfig
from xinst_jax.model import (
    Decoder,
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
# attention and the cache waste on a document. None depends on the batch, because the
# last bits of a matrix product depend on its shape.
_SLOT_TOKENS = (128, 256, 512, 1024, 2048)
_SMALLEST_DECODING_SLOT = 256  # decoding runs per size, so it wants few of them
_ROW_TOKENS = {"cpu": 2048}
_ROW_TOKENS_ELSEWHERE = 16_384
_DECODING_SLOTS = {"cpu": 32}  # per row
_DECODING_SLOTS_ELSEWHERE = 256


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


class Engine:
    """A model, ready to answer. Calls from several threads take turns.

    A prompt's result does not depend on its batch, order or neighbours.

    Attributes:
      config: The model's.
      tokenizer: The checkpoint's.
      model: The decoder, on its mesh.
      max_prompt_tokens: The longest text that is taken; generating also keeps
        `max_new_tokens` of the model's positions free.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, mesh: Mesh) -> None:
        self.model = model
        self.config: ModelConfig = model.config
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.max_prompt_tokens = min(_SLOT_TOKENS[-1], self.config.max_positions)
        self._lock = threading.Lock()
        platform = mesh.devices.flat[0].platform
        row_tokens = _ROW_TOKENS.get(platform, _ROW_TOKENS_ELSEWHERE)
        self._decoding_slots = _DECODING_SLOTS.get(platform, _DECODING_SLOTS_ELSEWHERE)
        sizes = [s for s in _SLOT_TOKENS if s < self.max_prompt_tokens]
        sizes.append(self.max_prompt_tokens)
        # As many slots as a row can hold of the documents that need this size.
        self._shapes = [
            RowShape(
                rows=mesh.shape["data"],
                tokens=row_tokens,
                slots=row_tokens // (smaller + 1),
                slot_tokens=size,
            )
            for smaller, size in zip([sizes[0] // 2, *sizes], sizes, strict=False)
        ]

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dtype: str = "float32",
        mesh: Mesh | None = None,
    ) -> "Engine":
        """Reads a checkpoint folder in the Hugging Face layout.

        Args:
          path: With config.json, safetensors and tokenizer.json.
          dtype: "float32" or "bfloat16", of weights and activations.
          mesh: From `make_mesh`; by default the first device.

        Raises:
          FileNotFoundError: A file is missing.
          ValueError: The checkpoint is of a kind that is not built here, its tensors
            do not match its config, or a size does not divide by the mesh.
        """
        mesh = mesh or make_mesh()
        config = ModelConfig.from_checkpoint(path)
        model = Decoder(config, load_weights(path, config, dtype, mesh))
        return cls(model, load_tokenizer(path), mesh)

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
          One result a prompt, in order. A prompt that is empty, too long or of a
          wrong type brings an error of its own and costs the others nothing.

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
        results = {
            i: Generation(
                text="", tokens=(), logprob=float("nan"), stopped=False, error=error
            )
            for i, error in errors.items()
        }
        seeds = {
            i: record_seed(np.asarray(d, np.int32).tobytes() if ids is None else ids[i])
            for i, d in documents.items()
        }
        smallest = min(_SMALLEST_DECODING_SLOT, self.max_prompt_tokens)
        with self._lock, jax.set_mesh(self.mesh):
            for shape, group in self._groups(documents, smallest):
                self._generate_group(shape, group, seeds, sampling, results)
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
        tokens = jnp.asarray([target[0] for target in targets])
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

    def _groups(
        self, documents: Mapping[int, list[int]], smallest: int = 0
    ) -> Iterator[tuple[RowShape, dict[int, list[int]]]]:
        """Documents by the smallest slot that holds them; by nothing around them."""
        shapes = [s for s in self._shapes if s.slot_tokens >= smallest]
        least = 0
        for shape in shapes:
            group = {
                i: documents[i]
                for i in sorted(documents)
                if least < len(documents[i]) <= shape.slot_tokens
            }
            least = shape.slot_tokens
            if group:
                yield shape, group

    def _run(
        self,
        documents: Mapping[int, list[int]],
        program: Callable[[Decoder, Rows, list[list[int]], RowShape], jax.Array],
    ) -> list[tuple[list[int], np.ndarray]]:
        """What `program` makes of packed documents, given with those in each row."""
        with self._lock, jax.set_mesh(self.mesh):
            # All is enqueued before the first is read, so that the device never waits.
            launched = []
            for shape, group in self._groups(documents):
                for rows in _packed(group, shape):
                    texts = [[group[i] for i in row] for row in rows]
                    packed = put_rows(fill(texts, shape), self.mesh)
                    launched.append((rows, program(self.model, packed, rows, shape)))
            return [
                (row, values)
                for rows, out in launched
                for row, values in zip(rows, np.asarray(out), strict=True)
            ]

    def _generate_group(
        self,
        shape: RowShape,
        group: Mapping[int, list[int]],
        seeds: Mapping[int, int],
        sampling: SamplingConfig,
        results: dict[int, Generation],
    ) -> None:
        """Prefills until the decoding slots of a row are full, decodes, repeats."""
        num_slots = self._decoding_slots
        pending = list(group)
        while pending:
            cache = _empty_cache(self.model, shape.rows, num_slots, shape.slot_tokens)
            held: list[list[int]] = [[] for _ in range(shape.rows)]
            while pending and max(map(len, held)) < num_slots:
                rows, _ = assign([len(group[i]) for i in pending], shape)
                places = np.full((shape.rows, shape.slots), num_slots, np.int32)
                texts = []
                for r, row in enumerate(rows):
                    taken = [pending[j] for j in row[: num_slots - len(held[r])]]
                    places[r, : len(taken)] = len(held[r]) + np.arange(len(taken))
                    held[r] += taken
                    texts.append([group[i] for i in taken])
                taken_now = {i for row in held for i in row}
                pending = [i for i in pending if i not in taken_now]
                put = put_rows((fill(texts, shape), places), self.mesh)
                cache = _prefill(self.model, cache, *put)
            lens = np.ones((shape.rows, num_slots), np.int32)
            records = np.zeros((shape.rows, num_slots), np.uint32)
            used = np.zeros((shape.rows, num_slots), bool)
            for r, row in enumerate(held):
                lens[r, : len(row)] = [len(group[i]) for i in row]
                records[r, : len(row)] = [seeds[i] for i in row]
                used[r, : len(row)] = True
            put = put_rows((lens, records, used), self.mesh)
            out = _decode(self.model, cache, *put, sampling)
            tokens, counts, logprobs, stopped = map(np.asarray, out)
            for r, row in enumerate(held):
                for p, i in enumerate(row):
                    ids = tokens[r, p, : counts[r, p] - stopped[r, p]].tolist()
                    results[i] = Generation(
                        text=self.tokenizer.decode(ids),
                        tokens=tuple(ids),
                        logprob=float(logprobs[r, p]),
                        stopped=bool(stopped[r, p]),
                    )


def _packed(
    group: Mapping[int, list[int]], shape: RowShape
) -> Iterator[list[list[int]]]:
    """The group's documents, rows after rows, each document once."""
    pending = list(group)
    while pending:
        rows, left = assign([len(group[i]) for i in pending], shape)
        yield [[pending[j] for j in row] for row in rows]
        pending = [pending[j] for j in left]


@jax.jit
def _score_rows(
    model: Decoder, rows: Rows, labels: Int[Array, " labels"]
) -> Float[Array, "R C labels"]:
    x, _ = hidden_of_rows(model, rows)
    logits = _whole(model.logits(last_states(x, rows)))
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


_CACHE = spec(None, "row", None, "heads", None, None)


def _whole(logits: Float[Array, "R P V"]) -> Float[Array, "R P V"]:
    """The vocabulary gathered on every device of a row, for what sorts or picks."""
    return jax.sharding.reshard(logits, spec("row", None, None))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _empty_cache(model: Decoder, rows: int, slots: int, size: int) -> dict[str, Any]:
    """Room for the prompts of all decoding slots: keys and values, last states."""
    config = model.config
    heads = config.kv_heads * kv_copies(config, jax.sharding.get_abstract_mesh())
    shape = config.layers, rows, slots, heads, size, config.head_width
    dtype = model.embedding.dtype
    zeros = partial(jnp.zeros, dtype=dtype)
    return {
        "k": zeros(shape, out_sharding=_CACHE),
        "v": zeros(shape, out_sharding=_CACHE),
        "last": zeros(
            (rows, slots, config.width), out_sharding=spec("row", None, None)
        ),
    }


@partial(jax.jit, donate_argnums=1)
def _prefill(
    model: Decoder, cache: dict[str, Any], rows: Rows, places: Int[Array, "R C"]
) -> dict[str, Any]:
    """Runs packed prompts into the cache's slots `places`; those past its end drop."""
    x, (k, v) = hidden_of_rows(model, rows, keep_cache=True)

    def insert(old: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
        return jax.vmap(lambda o, n, i: o.at[i].set(n, mode="drop"))(old, new, at)

    by_layer = jax.vmap(insert, in_axes=(0, 0, None))
    states, index = spec("row", None, None), spec("row", None)
    keep = per_device(by_layer, (_CACHE, _CACHE, index), _CACHE)
    keep_last = per_device(insert, (states, states, index), states)
    return {
        "k": keep(cache["k"], k, places),
        "v": keep(cache["v"], v, places),
        "last": keep_last(cache["last"], last_states(x, rows), places),
    }


@partial(jax.jit, static_argnums=5)
def _decode(
    model: Decoder,
    cache: dict[str, Any],
    lens: Int[Array, "R P"],
    records: Array,
    used: Array,
    sampling: SamplingConfig,
) -> tuple[Array, Array, Array, Array]:
    """Draws tokens in all slots until each has ended.

    Returns:
      Tokens [R, P, max_new_tokens], how many of them count, their summed
      log-probability, and whether the last is an end token, each [R, P].
    """
    by_row, by_slot = spec("row", None), spec("row", None, None)
    heads, cached = (
        spec("row", None, "heads", None),
        spec("row", None, "heads", None, None),
    )
    ends = jnp.asarray(model.config.eos, jnp.int32)
    attend_here = per_device(
        cached_attention,
        in_specs=(
            heads,
            (heads, heads),
            (cached, cached),
            (cached, cached),
            by_row,
            spec(),
        ),
        out_specs=heads,
    )

    def draw_here(logits: jax.Array, records: jax.Array, step: jax.Array) -> jax.Array:
        flat = logits.reshape(-1, logits.shape[-1])
        drawn = sample(flat, records.reshape(-1), step, sampling)
        return drawn.reshape(records.shape).astype(jnp.int32)

    def draw(x: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = _whole(model.logits(x))
        tokens = per_device(draw_here, (by_slot, by_row, spec()), by_row)(
            logits, records, step
        )
        return tokens, chosen_logprobs(logits, tokens)

    def is_end(tokens: jax.Array) -> jax.Array:
        return (tokens[:, :, None] == ends[None, None]).any(-1)

    def advance(state: dict[str, Any]) -> dict[str, Any]:
        step = state["step"]

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, memory: Any
        ) -> tuple[jax.Array, Any]:
            prompt, suffix = memory
            return attend_here(q, (k, v), prompt, suffix, lens, step - 1), (k, v)

        memory = (cache["k"], cache["v"]), state["suffix"]
        x, kept = model.hidden(state["last"], lens + step - 1, attend, memory)
        suffix = tuple(
            jax.lax.dynamic_update_slice_in_dim(old, new[:, :, :, :, None], step - 1, 4)
            for old, new in zip(state["suffix"], kept, strict=True)
        )
        tokens, logprob = draw(x, step)
        live = ~state["done"]
        return {
            "step": step + 1,
            "suffix": suffix,
            "last": tokens,
            "tokens": jax.lax.dynamic_update_slice_in_dim(
                state["tokens"], tokens[:, :, None], step, 2
            ),
            "count": state["count"] + live,
            "logprob": state["logprob"] + jnp.where(live, logprob, 0),
            "done": state["done"] | is_end(tokens),
            "stopped": state["stopped"] | (live & is_end(tokens)),
        }

    def unfinished(state: dict[str, Any]) -> jax.Array:
        return (state["step"] < sampling.max_new_tokens) & ~state["done"].all()

    first, logprob = draw(cache["last"], jnp.int32(0))
    size = sampling.max_new_tokens
    k = cache["k"]
    suffix = jnp.zeros((*k.shape[:4], size, k.shape[5]), k.dtype, out_sharding=_CACHE)
    tokens = jnp.zeros((*lens.shape, size), jnp.int32, out_sharding=by_slot)
    state = {
        "step": jnp.int32(1),
        "suffix": (suffix, suffix),
        "last": first,
        "tokens": tokens.at[:, :, 0].set(first),
        "count": jnp.ones_like(lens),
        "logprob": logprob,
        "done": ~used | is_end(first),
        "stopped": is_end(first),
    }
    state = jax.lax.while_loop(unfinished, advance, state)
    return state["tokens"], state["count"], state["logprob"], state["stopped"]
