"""What n-grams tell of a pair: whether its texts belong together, and their language.

A small dual encoder, learnt from seed pairs by contrast, and counts. It knows no
grammar, and costs next to nothing: what a language model of some size finds without
help, and a small one does not. Words, names and numbers that both texts share bring
them nearer too.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from safetensors.numpy import load_file, save_file

from xinst_jax.prompts import LANGUAGE_NAMES
from xinst_jax.seed import Pair

FILE = "relevance.safetensors"
_BUCKETS, _WIDTH = 1 << 15, 64
_NGRAMS = (3, 4, 5)
# So many characters and n-grams of a text are looked at.
_MAX_CHARS, _MAX_FEATURES = 600, 640
_BATCH, _SHARPNESS = 128, 20.0
# Shares of the n-grams of instruction and response that a step leaves out.
_DROPOUT = (0.3, 0.5)
# How much telling apart the pairs of one topic counts beside telling topics apart.
_WITHIN_TOPIC = 0.2
_ENGLISH = "en"
# In so many parts a response's language is told, and so much is added to each count.
_PARTS, _UNSEEN = 4, 0.5


class Relevance:
    """The encoder, and what the languages' n-grams are.

    Args:
      vectors: Of each n-gram's bucket, `[_BUCKETS, D]`; the first is nobody's.
      languages: Log-probability of each bucket in the languages of
        `prompts.LANGUAGE_NAMES`, in their order, and in English, `[_BUCKETS, L]`.
    """

    def __init__(
        self, vectors: Float[np.ndarray, "K D"], languages: Float[np.ndarray, "K L"]
    ) -> None:
        self._vectors = vectors
        self._languages = languages

    @classmethod
    def train(
        cls, pairs: Sequence[Pair], seed: int, *, steps: int = 300
    ) -> "Relevance":
        """Learns that pairs belong together, and pairs of one topic nearly so.

        Multi-positive InfoNCE (van den Oord et al. 2018; Khosla et al. 2020) in batches
        of one language, where every pair of the topic counts as right; and InfoNCE
        among the pairs of each topic. Without topics it is the usual one.

        Args:
          pairs: Of any languages.
          seed: Of the order and of the first vectors.
          steps: Of Adam.
        """
        draw = np.random.default_rng(seed)
        sides = [
            _padded([p.instruction for p in pairs]),
            _padded([p.response for p in pairs]),
        ]
        found = np.bincount(
            np.concatenate([side.ravel() for side in sides]), minlength=_BUCKETS
        )
        # Inverse document frequency: what all texts have tells nothing.
        weight = np.log(1 + 2 * len(pairs) / np.maximum(found, 1)).astype(np.float32)
        weight[0] = 0
        # A pair without a topic is one of its own.
        names = [p.topic or f" {n}" for n, p in enumerate(pairs)]
        topics = np.unique(names, return_inverse=True)[1]
        vectors = jnp.asarray(draw.normal(size=(_BUCKETS, _WIDTH)), jnp.float32) * 0.1
        state = _OPTIMIZER.init(vectors)
        key = jax.random.key(seed)
        for step, rows in zip(range(steps), _batches(pairs, draw), strict=False):
            vectors, state = _step(
                vectors,
                state,
                weight,
                sides[0][rows],
                sides[1][rows],
                rows,
                topics[rows],
                jax.random.fold_in(key, step),
            )
        return cls(np.asarray(vectors) * weight[:, None], _counted(pairs, sides))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Relevance":
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: There is none in the folder.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the evaluator was trained without the evidence "
                "'similarity'. Leave it out of evaluator.evidence, or train it again."
            )
        tensors = load_file(path)
        return cls(tensors["vectors"], tensors["languages"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Adds the encoder to a checkpoint's folder."""
        tensors = {"vectors": self._vectors, "languages": self._languages}
        save_file(tensors, Path(folder) / FILE)

    def similarity(
        self, instructions: Sequence[str], responses: Sequence[str]
    ) -> Float[np.ndarray, "N 2"]:
        """Cosines of the texts' vectors, in [-1, 1]; 0 for an empty text.

        Of the instruction and the response; and of the instruction and that half of
        the response which is farther from it.
        """
        asked = self._embed(instructions)
        middles = [len(text) // 2 for text in responses]
        halves = (
            responses,
            [text[:at] for text, at in zip(responses, middles, strict=True)],
            [text[at:] for text, at in zip(responses, middles, strict=True)],
        )
        whole, first, second = (
            np.einsum("nd,nd->n", asked, self._embed(texts)) for texts in halves
        )
        return np.stack([whole, np.minimum(first, second)], axis=1)

    def purity(
        self, responses: Sequence[str], languages: Sequence[str]
    ) -> Float[np.ndarray, " N"]:
        """How surely the least sure quarter of a text is in its language.

        Nats an n-gram by which the language is likelier than the likeliest other one,
        by naive Bayes; below 0 another is likelier.

        Args:
          responses: The texts.
          languages: Of each, a key of `prompts.LANGUAGE_NAMES`.
        """
        names = [*LANGUAGE_NAMES]
        found = np.zeros(len(responses))
        for row, (text, code) in enumerate(zip(responses, languages, strict=True)):
            own = names.index(code)
            size = max(1, -(-len(text) // _PARTS))
            margins = []
            for at in range(0, len(text), size):
                # A part may be blank: of it nothing can be said.
                if features := _features(text[at : at + size]):
                    scores = self._languages[features].mean(axis=0)
                    margins.append(scores[own] - np.delete(scores, own).max())
            found[row] = min(margins, default=0.0)
        return found

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        sums = np.zeros((len(texts), self._vectors.shape[1]), np.float32)
        for total, text in zip(sums, texts, strict=True):
            total += self._vectors[_features(text)].sum(axis=0)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def _features(text: str) -> list[int]:
    """Buckets of a text's words and of the n-grams in them, each once."""
    found = set()
    for word in text[:_MAX_CHARS].lower().split():
        marked = f"<{word}>"
        found.add(zlib.crc32(marked.encode("utf-8", "replace")))
        for size in _NGRAMS:
            for at in range(len(marked) - size + 1):
                gram = marked[at : at + size].encode("utf-8", "replace")
                found.add(zlib.crc32(gram))
    return sorted({value % (_BUCKETS - 1) + 1 for value in found})[:_MAX_FEATURES]


def _counted(
    pairs: Sequence[Pair], sides: Sequence[Int[np.ndarray, "N _"]]
) -> Float[np.ndarray, "K L"]:
    """Log-probabilities of n-grams in each language, and in English."""
    names = [*LANGUAGE_NAMES, _ENGLISH]
    counts = np.full((_BUCKETS, len(names)), _UNSEEN, np.float32)
    for pair, instruction, response in zip(pairs, *sides, strict=True):
        counts[instruction[instruction > 0], names.index(_ENGLISH)] += 1
        counts[response[response > 0], names.index(pair.language)] += 1
    return np.log(counts / counts.sum(axis=0))


def _padded(texts: Sequence[str]) -> Int[np.ndarray, "N F"]:
    rows = [_features(text) for text in texts]
    padded = np.zeros((len(rows), -(-max(map(len, rows)) // 64) * 64), np.int32)
    for row, features in zip(padded, rows, strict=True):
        row[: len(features)] = features
    return padded


def _batches(
    pairs: Sequence[Pair], draw: np.random.Generator
) -> Iterator[Int[np.ndarray, " B"]]:
    """Rows of one language at a time, the languages in turn, for ever."""
    languages = np.array([pair.language for pair in pairs])
    members = [np.flatnonzero(languages == code) for code in np.unique(languages)]
    size = min(_BATCH, max(map(len, members)))
    while True:
        for rows in members:
            # A language of few pairs repeats them; it does not shrink all batches.
            yield draw.choice(rows, size, replace=len(rows) < size)


_OPTIMIZER = optax.adam(1e-2)


@partial(jax.jit, donate_argnums=(0, 1))
def _step(
    vectors: Float[Array, "K D"],
    state: Any,
    weight: Float[Array, " K"],
    instructions: Int[Array, "B F"],
    responses: Int[Array, "B G"],
    rows: Int[Array, " B"],
    topics: Int[Array, " B"],
    key: Array,
) -> tuple[Float[Array, "K D"], Any]:
    def encode(vectors: Array, features: Array, key: Array, dropout: float) -> Array:
        there = jax.random.uniform(key, features.shape) >= dropout
        scaled = weight[features] * (there & (features > 0))
        sums = jnp.einsum("bf,bfd->bd", scaled, vectors[features])
        length = jnp.linalg.norm(sums, axis=1, keepdims=True)
        return sums / jnp.maximum(length, 1e-6)

    def loss(vectors: Array) -> Array:
        keys = jax.random.split(key)
        left = encode(vectors, instructions, keys[0], _DROPOUT[0])
        right = encode(vectors, responses, keys[1], _DROPOUT[1])
        scores = left @ right.T * _SHARPNESS
        same = topics[:, None] == topics[None, :]
        own = rows[:, None] == rows[None, :]
        total = jnp.zeros(())
        for each in (scores, scores.T):
            total += _contrast(
                each, same, jnp.ones_like(same)
            ) + _WITHIN_TOPIC * _contrast(each, own, same)
        return total

    updates, state = _OPTIMIZER.update(jax.grad(loss)(vectors), state)
    return optax.apply_updates(vectors, updates), state


def _contrast(
    scores: Float[Array, "B B"], right: Array, among: Array
) -> Float[Array, ""]:
    """Mean negative log-probability of the right columns among some, a row."""
    logprobs = jax.nn.log_softmax(jnp.where(among, scores, -1e9), axis=1)
    found = jnp.where(right, logprobs, 0).sum(axis=1) / right.sum(axis=1)
    return -found.mean()
