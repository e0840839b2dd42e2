"""Fine-tunes the demo's model on the data set that `make demo` built.

    python examples/train_sft.py out/demo
    python examples/train_sft.py out/demo --format chat

The examples come through Grain, packed into rows; the loss is on the answers alone. A
run that was killed goes on where it was. Put your own checkpoint and data set in the
place of the demo's to train something useful; for one of billions of parameters, with
`lora=LoraConfig(rank=16), dtype="bfloat16"` in the `TrainingConfig`.
"""

import argparse
import sys
from pathlib import Path

import tensorflow_datasets as tfds

from xinst_jax import ModelConfig, data, formats, train
from xinst_jax.packing import RowShape
from xinst_jax.weights import load_tokenizer

STEPS = 40
# Rows of 2,048 tokens with up to 8 examples, none longer than 1,024 tokens.
SHAPE = RowShape(rows=1, tokens=2048, slots=8, slot_tokens=1024)


def main(folder: Path, format_name: str) -> None:
    checkpoint = folder / "checkpoints" / "generator"
    data_set = sorted((folder / "tfds" / "x_instruction" / "demo").glob("[0-9]*"))
    if not data_set or not checkpoint.exists():
        sys.exit(f"{folder} has no checkpoint or no data set: run `make demo` first.")
    builder = tfds.builder_from_directory(data_set[-1])
    splits = builder.as_data_source()
    pair_of = formats.named(format_name)
    batches = data.batches(
        splits["train"],
        load_tokenizer(checkpoint),
        ModelConfig.from_checkpoint(checkpoint).eos[0],
        SHAPE,
        pair_of=pair_of,
        epochs=None,
    )
    held_out = [pair_of(example) for example in splits["validation"]]
    out = "sft" if format_name == "xinstruction" else f"sft_{format_name}"
    log = train.fit(
        checkpoint,
        folder / "checkpoints" / out,
        batches,
        held_out,
        train.TrainingConfig(steps=STEPS, learning_rate=1e-3, warmup=5, eval_every=20),
    )
    first, last = log[0]["loss"], sum(entry["loss"] for entry in log[-5:]) / 5
    print(
        f"loss on answers: {first:.3f} at the first step, {last:.3f} over the last "
        f"five; held out: {log[-1]['held_out_loss']:.3f}"
    )
    if last >= first:
        sys.exit("The loss did not fall.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="what `make demo` wrote")
    parser.add_argument("--format", choices=formats.FORMATS, default="xinstruction")
    options = parser.parse_args()
    main(options.folder, options.format)
