"""Reads a data set that `tfds build` made, and prints three examples of it.

    python examples/show.py out/demo/tfds

This is all that a reader needs: tensorflow-datasets and array_record, no TensorFlow.
"""

import sys
from pathlib import Path

import tensorflow_datasets as tfds


def main(data_dir: str) -> None:
    folders = sorted(Path(data_dir).glob("x_instruction/demo/[0-9]*"))
    if not folders:
        sys.exit(f"No data set in {data_dir}. Was it built? `make demo` does it.")
    builder = tfds.builder_from_directory(folders[-1])
    splits = builder.as_data_source()
    counts = ", ".join(f"{len(source)} {name}" for name, source in splits.items())
    examples = [example for source in splits.values() for example in source]
    languages = sorted({example["output_language"].decode() for example in examples})
    print(f"\n{folders[-1]}: {counts}; languages: {' '.join(languages)}\n")
    best = sorted(examples, key=lambda e: (-e["score"], e["id"]))
    shown = {}
    for example in best:
        shown.setdefault(example["output_language"], example)
    for example in list(shown.values())[:3]:
        text = {k: v.decode() for k, v in example.items() if isinstance(v, bytes)}
        lines = text["output"][:240].splitlines()
        print(f"instruction  {text['instruction']}")
        print("\n".join(f"output       {line}" for line in lines if line))
        print(
            f"language     {text['output_language']}, score {example['score']:.3f}, "
            f"cluster {example['cluster']}, split {text['split']}"
        )
        print(f"from         {text['url']}, captured {text['date']}")
        print(
            f"             {text['warc_file']}, bytes {example['warc_offset']:,} "
            f"to {example['warc_offset'] + example['warc_length']:,}\n"
        )
    print(f"Report: {folders[-1].parents[3] / 'report.html'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"Usage: {sys.argv[0]} DATA_DIR")
    main(sys.argv[1])
