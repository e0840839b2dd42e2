"""The TFDS builder: the pipeline's examples, written, described and read.

Nothing here is pickled, since `tfds build` imports this module under a name that
workers do not have. Reading needs neither Beam nor the pipeline.
"""

import dataclasses
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets.public_api as tfds

# By hand, so that the names of configs are known without the pipeline.
LANGUAGES = ("fi", "id", "th", "tr", "vi", "bn", "hi", "sw", "ta", "ur")
# The formats of `xinst_jax` that need nothing but a web page and its instruction.
FORMATS = ("xinstruction", "xinstruction_aug", "chat", "crossin_en_x", "afp")
_VERSION = "0.3.0"
_DEFAULT_RECIPE = "x_instruction.toml"
_REPOSITORY = Path(__file__).parents[2]


@dataclasses.dataclass(kw_only=True)
class XInstructionConfig(tfds.core.BuilderConfig):
    """What a data set is built from.

    Attributes:
      recipe: A TOML file. Relative paths in it are taken from the current folder.
      store: What long work is kept in, so that a killed build goes on; by default in
        the download folder.
      languages: Only these of the recipe's; all of them by default.
      format: One of `FORMATS`: examples have `prompt` and `target` beside the rest.
      until: A day, such as 2026-11-01. Then only pages that were captured until it is
        over, in UTC, are taken, and only from the store: what fills it may go on. Each
        day is a version of its own, here 0.3.20261101, beside those of other days.
    """

    recipe: str = _DEFAULT_RECIPE
    store: str = ""
    languages: list[str] | tuple[str, ...] = ()
    format: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.languages, str):
            raise ValueError(f"languages is {self.languages!r}; expected a list.")
        for code in self.languages:
            if code not in LANGUAGES:
                raise ValueError(
                    f"languages: {code!r} is none of ours; choose from "
                    f"{', '.join(LANGUAGES)}."
                )
        if self.format and self.format not in FORMATS:
            raise ValueError(
                f"format: {self.format!r} cannot be built from web pages; choose from "
                f"{', '.join(FORMATS)}. Those that need columns of a translation are "
                "applied to your parallel rows: see xinst_jax/formats.py."
            )
        if self.until:
            own = _version_of(self.until)
            if self.version not in (None, own):
                raise ValueError(
                    f"until {self.until} is version {own}; leave version out."
                )
            self.version: str | None = own


def _version_of(day: str) -> str:
    """The version that holds what was captured until a day is over."""
    try:
        date = datetime.date.fromisoformat(day)
    except (TypeError, ValueError):
        date = None
    # Python reads other ways to write a day too; one day must be one version.
    if date is None or date.isoformat() != day:
        raise ValueError(f"until is {day!r}; expected a day such as '2026-11-01'.")
    return f"{_VERSION.rpartition('.')[0]}.{date:%Y%m%d}"


class Builder(tfds.core.GeneratorBasedBuilder):
    """English instructions with natural web text as their answers."""

    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {
        "0.3.0": "Refined in rounds; best pairs of a topic first, then the farthest.",
        "0.2.0": "No near duplicates, personal data masked; `robots`, `license`.",
        "0.1.0": "First release.",
    }
    builder_config_cls = XInstructionConfig
    BUILDER_CONFIGS = [
        XInstructionConfig(
            name="demo",
            description="The bundled pages; `make demo` builds it.",
            recipe="examples/demo.toml",
            store="out/demo/store",
        ),
        XInstructionConfig(name="all", description="All languages of the recipe."),
        *(
            XInstructionConfig(
                name=code,
                description=f"The recipe's examples in {code}.",
                languages=(code,),
            )
            for code in LANGUAGES
        ),
        *(
            XInstructionConfig(
                name=f"all_{name}",
                description=f"`all`, with `prompt` and `target` as of {name}.",
                format=name,
            )
            for name in FORMATS
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        text, number = tfds.features.Text, tfds.features.Scalar
        features = {
            "id": text(doc="The WARC record's UUID; .1, .2 for later pieces of a page"),
            "instruction": text(doc="English, generated"),
            "output": text(doc="Natural web text in output_language"),
            "output_language": text(doc="ISO 639-1"),
            "url": text(doc="Of the page, as crawled"),
            "domain": text(doc="The registered domain of url"),
            "date": text(doc="Of the capture, ISO 8601 in UTC"),
            "warc_file": text(doc="Where the page lies"),
            "warc_offset": number(np.int64, doc="Bytes from the start of warc_file"),
            "warc_length": number(np.int64, doc="Bytes of the record, compressed"),
            "robots": tfds.features.Sequence(
                text(), doc="What the page asks of crawlers: noindex, noai, noimageai"
            ),
            "license": text(
                doc="URL of the Creative Commons licence it names, or empty"
            ),
            "score": number(np.float32, doc="The evaluator's, in [0, 1]"),
            "cluster": number(np.int64, doc="Topic within the language"),
            "split": text(doc="train, validation or test"),
        }
        keys = ("instruction", "output")
        if name := self.builder_config.format:
            keys = ("prompt", "target")
            features["prompt"] = text(doc=f"What a model reads, in the format {name}")
            features["target"] = text(doc="What it learns to write after prompt")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=keys,
            homepage="https://github.com/ZNLP/X-Instruction",
            license="Pages: see Common Crawl's terms of use. Instructions: Apache-2.0",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager, pipeline: Any
    ) -> Mapping[str, Any]:
        # Imported here: whoever only reads the data set has none of it.
        import apache_beam as beam

        from beam_pipelines import pipeline as pipelines
        from beam_pipelines import recipe as recipes
        from beam_pipelines import splits
        from beam_pipelines.store import Store

        recipe, root = self._recipe_and_store(dl_manager.download_dir)
        store = Store(root, recipe)
        for change in store.open():
            print(f"Recipe changed since the store {root} was last used: {change}")
        self._store = store
        self.info.metadata.update(
            recipe=recipes.canonical(recipe),
            recipe_hash=recipe.examples_hash(),
            languages=list(self.builder_config.languages or recipe.languages),
            until=self.builder_config.until,
        )
        path = pipelines.Path(
            pipeline,
            recipe,
            store,
            until="examples",
            languages=self.builder_config.languages,
            up_to=self.builder_config.until,
        )
        examples = {
            split: path.examples
            | f"Only_{split}" >> beam.Filter(pipelines.is_in_split, split)
            | f"Features_{split}" >> beam.Map(pipelines.to_features)
            for split in splits.splits(recipe.diversify)
        }
        if name := self.builder_config.format:
            from xinst_jax import formats

            examples = {
                split: made | f"Format_{split}" >> beam.Map(formats.with_pair, name)
                for split, made in examples.items()
            }
        return examples

    def _recipe_and_store(self, download_dir: os.PathLike[str]) -> tuple[Any, str]:
        """The recipe, its paths made good, and where its long work is kept."""
        from beam_pipelines import recipe as recipes

        config = self.builder_config
        if config.name == "demo" and not Path(config.recipe).exists():
            # `tfds build` runs where it likes; the demo's files lie in the repository.
            recipe = recipes.load(_REPOSITORY / config.recipe)
            return (
                recipes.anchored(recipe, str(_REPOSITORY)),
                config.store and str(_REPOSITORY / config.store),
            )
        if config.recipe == _DEFAULT_RECIPE and not Path(config.recipe).exists():
            raise FileNotFoundError(
                f"Config {config.name!r} follows the recipe {_DEFAULT_RECIPE} in the "
                f"current folder ({os.getcwd()}), and there is none. Write one, "
                "beginning with a copy of examples/demo.toml, or name another with "
                '--config \'{"name": "mine", "recipe": "my.toml"}\'.'
            )
        recipe = recipes.load(config.recipe)
        default = os.path.join(download_dir, "x_instruction", recipe.name)
        return recipe, config.store or default

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        """Adds the funnel to the metadata, once every part is written."""
        from beam_pipelines import report
        from beam_pipelines.store import unread

        self._store.tidy()
        if self.builder_config.until:
            # The store may hold more by now, and drops are counted by file, not by day.
            return
        self.info.metadata["funnel"] = report.as_text(
            report.read_funnel(self._store.root)
        )
        letters = unread(self._store.documents)
        self.info.metadata["unread"] = len(letters)
        for letter in letters[:10]:
            print(f"Not in this data set: {letter['file']}, {letter['detail']}")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        from apache_beam.options.pipeline_options import PipelineOptions

        if not (download_config.beam_options or download_config.beam_runner):
            # Beam's default picks between two runners, and may download one.
            options = PipelineOptions(["--runner=FnApiRunner"])
            download_config = dataclasses.replace(download_config, beam_options=options)
        super()._download_and_prepare(dl_manager, download_config)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Removes what killed builds of this version left beside this one."""
        mine = tfds.core.Path(self.data_dir)
        version = mine.name.rpartition("_")[2]
        for folder in mine.parent.glob(f"incomplete.*_{version}"):
            if folder != mine:
                folder.rmtree()

    def _generate_examples(self) -> None:
        raise AssertionError("_split_generators gives the examples itself.")
