"""A checkpoint from scratch: random weights, and a tokenizer learnt from texts."""

import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from xinst_jax.config import ModelConfig
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import random_weights, save_checkpoint

_SPECIALS = ("<s>", "</s>", "<pad>")
_LSA_TEXTS = 4000  # the eigenvectors cost the cube of this


def new_checkpoint(
    path: str | os.PathLike[str],
    texts: Iterable[str],
    *,
    forms: Sequence[str] = (),
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    max_positions: int,
    seed: int,
) -> None:
    """Writes a small Llama with random weights and a tokenizer of its own.

    The tokenizer is a byte-level BPE learnt from `texts`, so it can write any text.
    The head is the embedding, which in a small model is most of the parameters. It
    starts from which tokens occur in the same texts: an instruction and its response
    in one text bring the words of two languages near to one another.

    Args:
      path: Becomes the checkpoint.
      texts: What the tokenizer and the embedding learn from.
      forms: Templates around them, whose words the tokenizer should have whole.
      vocabulary: At most this many ids, 259 at least: bytes and special tokens.
      width: Of the residual stream, a multiple of `heads`.
      layers: Number of decoder layers.
      heads: Query heads.
      kv_heads: Key/value heads.
      mlp_width: Of the gated hidden layer.
      max_positions: The longest sequence in tokens.
      seed: Of the weights.
    """
    if vocabulary < 256 + len(_SPECIALS) or width % heads:
        raise ValueError(
            f"new_checkpoint needs {256 + len(_SPECIALS)} <= vocabulary and width a "
            "multiple of heads, "
            f"got vocabulary={vocabulary}, width={width}, heads={heads}."
        )
    texts = list(texts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [*texts, *[*forms] * (1 + len(texts) // 10)],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bos, eos = 0, 1  # the trainer numbers special tokens first
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIALS[0]} $A", special_tokens=[(_SPECIALS[0], bos)]
    )
    config = ModelConfig(
        vocabulary=tokenizer.get_vocab_size(),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        query_scale=(width // heads) ** -0.5,
        mlp_width=mlp_width,
        max_positions=max_positions,
        tied=True,
        bos=bos,
        eos=(eos,),
    )
    weights = random_weights(config, seed, "float32", make_mesh())
    random = np.asarray(weights["embedding"])
    weights["embedding"] = jax.device_put(
        _embedding_of(texts, tokenizer, random), weights["embedding"].sharding
    )
    save_checkpoint(path, config, weights, tokenizer)


def _embedding_of(
    texts: Sequence[str], tokenizer: Tokenizer, random: np.ndarray
) -> np.ndarray:
    """Latent semantic analysis: directions in which tokens share texts, `[V, D]`.

    The singular vectors of the tokens' tf-idf (Deerwester et al. 1990), as long as the
    random vectors, with some of those mixed in to tell tokens apart.
    """
    num_tokens, width = random.shape
    found = [
        sorted(set(encoded.ids))
        for encoded in tokenizer.encode_batch(texts[:_LSA_TEXTS])
    ]
    frequency = np.bincount(np.concatenate(found), minlength=num_tokens)
    weight = np.log((1 + len(found)) / np.maximum(frequency, 1))
    occurs = np.zeros((len(found), num_tokens))
    for row, ids in zip(occurs, found, strict=True):
        row[ids] = weight[ids] / np.linalg.norm(weight[ids])
    # The left singular vectors are eigenvectors of a matrix that is much smaller; the
    # largest come last.
    rank = min(width * 7 // 8, len(found))
    _, left = np.linalg.eigh(occurs @ occurs.T)
    shared = occurs.T @ left[:, -rank:]
    shared /= np.maximum(np.linalg.norm(shared, axis=1, keepdims=True), 1e-9)
    # Tokens of one text alone share nothing.
    shared *= (frequency > 1)[:, None] * np.linalg.norm(random, axis=1).mean()
    embedding = 0.3 * random
    embedding[:, :rank] += shared
    return embedding.astype(np.float32)
