"""Packaging: what is installed for whom, and what Beam ships to its workers."""

import pathlib

from setuptools import setup

# Reading the data set needs neither Beam nor JAX nor TensorFlow.
READ = ["array_record", "importlib_resources", "tensorflow-datasets>=4.9.10"]
PIPELINE = [
    "apache-beam>=2.77",
    "brotli",
    "isal>=1.9",
    "langdetect>=1.0.9",
    "lxml",
    "lxml_html_clean",  # trafilatura's extractor imports it without asking for it
    "numpy",
    "py3langid>=0.4",
    "pyarrow",
    "pycld2>=0.42",
    "resiliparse>=2.0",
    "scikit-learn>=1.9",
    "threadpoolctl",
    "tld",
    "trafilatura>=2.3",
    "urllib3>=2",
    "warcio>=1.8",
]
ENGINE = [
    "flax>=0.12",
    "jax>=0.10",
    "jaxtyping",
    "numpy",
    "optax",
    "safetensors",
    "tokenizers",
    "tqdm",
]
# The TPU's compiler, to compile for TPUs where there are none; not open source.
TPU_FIT = ["libtpu==0.0.42.1"]
S3 = ["apache-beam[aws]>=2.77"]
GCP = ["apache-beam[gcp]>=2.77"]
TRAIN = ["grain>=0.2.18", "orbax-checkpoint>=0.12"]
# The `tfds` command, beyond reading: TensorFlow is its own demand, not ours.
TFDS_CLI = ["mlcroissant", "tensorflow-cpu>=2.21"]
DEVELOP = [
    "beartype",
    "dill",
    "moto[server]",
    "mypy",
    "pandas-stubs",
    "pytest",
    "pytest-xdist",
    "ruff",
]

setup(
    name="x-instruction",
    version="0.1.0",
    description="Instruction data in ten languages, from Common Crawl to TFDS.",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "beam_pipelines",
        "tfds_builder",
        "tfds_builder.x_instruction",
        "xinst_jax",
    ],
    package_data={"tfds_builder.x_instruction": ["*.md", "*.bib", "*.txt"]},
    install_requires=READ,
    extras_require={
        "pipeline": PIPELINE,
        "s3": S3,
        "gcp": GCP,
        "engine": ENGINE,
        "train": [*ENGINE, *TRAIN],
        "tpu-fit": TPU_FIT,
        "build": [*PIPELINE, *ENGINE, *TRAIN, *TFDS_CLI],
        "test": [*PIPELINE, *S3, *GCP, *ENGINE, *TRAIN, *TFDS_CLI, *DEVELOP],
    },
    entry_points={"console_scripts": ["xinst=beam_pipelines.cli:main"]},
)
