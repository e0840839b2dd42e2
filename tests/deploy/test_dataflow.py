"""What Dataflow is told: jobs that are submitted for real, to a server on this machine.

No job runs. What is asserted is the job as it was posted, and the pipeline as it was
uploaded.
"""

import dataclasses
import importlib.metadata
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import tensorflow_datasets as tfds
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
)
from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud.dataflow_v1beta3.types import TemplateMetadata
from google.protobuf import json_format
from packaging.requirements import Requirement

from beam_pipelines import cli, generate
from beam_pipelines import recipe as recipes
from beam_pipelines.pipeline import Path as PipelinePath
from beam_pipelines.pipeline import SpeedOptions, share_accelerators
from beam_pipelines.schema import Document
from beam_pipelines.store import Store
from tests.conftest import REPOSITORY, example
from tests.deploy.fake_dataflow import BUCKET, FakeCloud, serving
from tfds_builder.x_instruction import x_instruction_dataset_builder as builders

L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
TPU = "worker_accelerator=type:tpu-v5-lite-podslice;topology:2x4"
ACCELERATOR = "beam:resources:accelerator:v1"
STORE = f"gs://{BUCKET}/store"
IMAGES = REPOSITORY / "deploy" / "images"
TEMPLATE = REPOSITORY / "deploy" / "dataflow"


@pytest.fixture(scope="module")
def cloud() -> Iterator[FakeCloud]:
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # As after looking for credentials and finding none, which takes half a minute.
        patch.setattr(auth._Credentials, "_credentials_init", True)
        patch.setattr(auth._Credentials, "_credentials", None)
        patch.setattr(FileSystems, "_pipeline_options", None)
        server.objects["crawl/0.warc.gz"] = b"no archive"
        yield server


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("generator", "evaluator"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    path = folder / "my.toml"
    path.write_text(
        'name = "test"\nlanguages = ["sw"]\n'
        f'[source]\nwarc = ["gs://{BUCKET}/crawl/*.warc.gz"]\n'
        f'[generator]\ncheckpoint = "{folder}/generator"\n'
        "candidates = 2\ntemperature = 0.7\n"
        f'[evaluator]\ncheckpoint = "{folder}/evaluator"\n'
    )
    return path


@dataclasses.dataclass(frozen=True)
class Submitted:
    """A job as it was posted, and its pipeline as it was uploaded."""

    job: dict[str, Any]
    pipeline: beam_runner_api_pb2.Pipeline

    @property
    def environment(self) -> dict[str, Any]:
        return self.job["environment"]

    @property
    def pool(self) -> dict[str, Any]:
        return self.environment["workerPools"][0]

    @property
    def experiments(self) -> set[str]:
        return set(self.environment["experiments"])

    def hints(self) -> dict[str, str]:
        """What each step that runs code asks for as its accelerator."""
        environments = self.pipeline.components.environments
        return {
            step.unique_name: environments[step.environment_id]
            .resource_hints[ACCELERATOR]
            .decode()
            for step in self.pipeline.components.transforms.values()
            if step.environment_id and not step.subtransforms
        }


def last(cloud: FakeCloud) -> Submitted:
    """The newest job, whose pipeline lies where the job says."""
    job = cloud.jobs[-1]
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    content = cloud.objects[url.removeprefix(f"gs://{BUCKET}/")]
    return Submitted(job, beam_runner_api_pb2.Pipeline.FromString(content))


def submit(
    cloud: FakeCloud, recipe: Path, *flags: str, until: str = "scores"
) -> Submitted:
    """What a person's `xinst run` posts."""
    command = ["run", str(recipe), "--store", STORE, "--until", until]
    assert cli.main([*command, *cloud.flags, *flags]) == 0
    return last(cloud)


IMAGE = "us-docker.pkg.dev/my-project/images/gpu:1"


@pytest.fixture(scope="module")
def gpu_job(cloud: FakeCloud, recipe: Path) -> Submitted:
    """The GPU job of deploy/dataflow/README.md."""
    return submit(
        cloud,
        recipe,
        f"--accelerator={L4}",
        f"--sdk_container_image={IMAGE}",
        "--sdk_location=container",
        "--machine_type=g2-standard-8",
        "--disk_size_gb=100",
        "--max_num_workers=4",
    )


@pytest.fixture(scope="module")
def tpu_job(cloud: FakeCloud, recipe: Path) -> Submitted:
    """The TPU job of deploy/dataflow/README.md."""
    return submit(
        cloud, recipe, f"--dataflow_service_options={TPU}", until="candidates"
    )


@pytest.fixture(scope="module")
def cpu_job(cloud: FakeCloud, recipe: Path) -> Submitted:
    """All stages, without accelerators."""
    return submit(cloud, recipe)


def test_the_steps_with_a_model_ask_for_the_accelerator_and_no_others(gpu_job):
    hints = gpu_job.hints()
    asking = {name for name, hint in hints.items() if hint}
    assert asking == {name for name in hints if "/RunInference/" in name}
    assert {hints[name] for name in asking} == {L4}
    models = {name.partition("/")[0] for name in asking if "BeamML_Run" in name}
    assert models == {"Generate", "Generate-1", "Score"}
    assert len(hints) > len(asking)


def test_without_a_flag_nothing_is_asked_and_dataflow_decides(cpu_job):
    assert set(cpu_job.hints().values()) == {""}
    assert "no_use_multiple_sdk_containers" not in cpu_job.experiments
    assert "numThreadsPerWorker" not in cpu_job.pool


@pytest.mark.parametrize("kind", ["gpu_job", "tpu_job"])
def test_a_host_with_accelerators_has_one_process(request, kind):
    job = request.getfixturevalue(kind)
    assert "no_use_multiple_sdk_containers" in job.experiments
    assert "use_multiple_sdk_containers" not in job.experiments
    assert job.pool["numThreadsPerWorker"] == 2


def test_tpus_are_asked_for_by_the_whole_job(tpu_job):
    assert tpu_job.environment["serviceOptions"] == [TPU]
    assert set(tpu_job.hints().values()) == {""}
    assert [name for name in tpu_job.hints() if "BeamML_Run" in name]


def test_image_and_machines_are_as_asked(gpu_job):
    pool = gpu_job.pool
    images = {each["containerImage"] for each in pool["sdkHarnessContainerImages"]}
    assert images == {IMAGE}
    payloads = [
        beam_runner_api_pb2.DockerPayload.FromString(each.payload)
        for each in gpu_job.pipeline.components.environments.values()
    ]
    assert {payload.container_image for payload in payloads} == {IMAGE}
    assert (pool["machineType"], pool["diskSizeGb"]) == ("g2-standard-8", 100)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 4


def test_a_job_does_not_grow_with_the_files_of_its_source(cloud, recipe, cpu_job):
    for number in range(10_000):
        cloud.objects[f"crawl/{number}.warc.gz"] = b"no archive"
    large = submit(cloud, recipe)
    for number in range(1, 10_000):
        del cloud.objects[f"crawl/{number}.warc.gz"]
    steps = [len(each.pipeline.components.transforms) for each in (cpu_job, large)]
    assert steps[0] == steps[1] > 20
    sizes = [len(each.pipeline.SerializeToString()) for each in (cpu_job, large)]
    assert abs(sizes[0] - sizes[1]) < 100
    assert max(cloud.job_bytes) < 100_000 < 10_000_000
    snapshots = [n for n in cloud.objects if n.startswith("store/snapshots/")]
    assert max(len(json.loads(cloud.objects[n])["files"]) for n in snapshots) == 10_000


def test_documents_need_no_checkpoint_and_a_job_may_go_on_alone(
    cloud, recipe, capsys, monkeypatch
):
    monkeypatch.setattr(recipes, "checkpoint_digest", None)
    flag = "--no_wait_until_finish"
    job = submit(cloud, recipe, flag, until="documents")
    assert not [name for name in job.hints() if "RunInference" in name]
    assert f"Submitted. `xinst report {STORE}`" in capsys.readouterr().out


def options_of(*flags: str) -> PipelineOptions:
    return cli.pipeline_options(["--runner=DataflowRunner", *flags])


def test_who_sets_processes_and_threads_is_left_alone():
    options = options_of(
        f"--accelerator={L4}",
        "--experiments=use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=7",
    )
    share_accelerators(options)
    debug = options.view_as(DebugOptions)
    assert debug.experiments == ["use_multiple_sdk_containers"]
    assert debug.number_of_worker_harness_threads == 7


def test_what_dataflow_would_not_do_is_refused():
    service = f"--dataflow_service_options=worker_accelerator={L4}"
    with pytest.raises(ValueError, match=f"asked for twice: --accelerator='{L4}'"):
        share_accelerators(options_of(f"--accelerator={L4}", service))
    kind = TPU.partition("=")[2]
    with pytest.raises(ValueError, match=f"--dataflow_service_options={TPU}"):
        share_accelerators(options_of(f"--accelerator={kind}"))


def test_another_runner_is_told_nothing(recipe, tmp_path):
    options = cli.pipeline_options([f"--accelerator={L4}"])
    crawl = tmp_path / "a.warc.gz"
    crawl.write_bytes(b"no archive")
    loaded = recipes.load(recipe)
    source = dataclasses.replace(loaded.source, warc=(str(crawl),))
    loaded = dataclasses.replace(loaded, source=source)
    pipeline = beam.Pipeline(options=options)
    PipelinePath(pipeline, loaded, Store(str(tmp_path), loaded), until="documents")
    debug = pipeline.options.view_as(DebugOptions)
    assert debug.number_of_worker_harness_threads is None
    assert "no_use_multiple_sdk_containers" not in debug.experiments
    assert pipeline.options.view_as(SpeedOptions).accelerator == L4


def test_whose_account_it_is_holds_for_the_store_too(cloud, monkeypatch):
    """Beam looks for credentials once: with the first file that is opened."""
    asked = []

    def look(options: PipelineOptions) -> None:
        account = options.view_as(GoogleCloudOptions).impersonate_service_account
        asked.append(account)

    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    monkeypatch.setattr(auth._Credentials, "_get_service_credentials", look)
    options_of("--impersonate_service_account=robot@my-project")
    FileSystems.exists(f"{STORE}/recipe.json")
    assert asked == ["robot@my-project"]


def test_an_accelerator_is_a_hint_that_changes_no_content(fake_engine, tmp_path):
    document = Document(
        id="a", url="https://a.example/", domain="a.example", date="2026-01-01",
        warc_file="a", warc_offset=0, warc_length=1, digest="d", language="sw",
        language_score=1.0, text="Habari.", checks={}, duplicates=1,
        robots=(), license="",
    )  # fmt: skip
    found = []
    for number, accelerator in enumerate(("", L4)):
        made = generate.GenerateInstructions(
            recipes.Generator(checkpoint="none"),
            0,
            "digest",
            f"model-{accelerator}",
            generate.Speed(accelerator=accelerator),
        )
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as p:
            candidates = p | beam.Create([[document]]) | made | beam.Map(repr)
            _ = candidates | beam.io.WriteToText(str(tmp_path / f"{number}"))
        environments = p.to_runner_api().components.environments.values()
        hints = {each.resource_hints[ACCELERATOR].decode() for each in environments}
        assert (L4 in hints) == bool(accelerator)
        found.append([f.read_text() for f in tmp_path.glob(f"{number}-*")])
    assert found[0] == found[1] and "Explain to me" in found[0][0]


@pytest.mark.slow
def test_tfds_build_submits_the_same_path_and_one_more_model(cloud, recipe, tmp_path):
    config = builders.XInstructionConfig(name="mine", recipe=str(recipe), store=STORE)
    builder = builders.Builder(data_dir=tmp_path, config=config)
    options = options_of(*cloud.flags, f"--accelerator={L4}")
    download = tfds.download.DownloadConfig(beam_options=options)
    # Nothing ran, so there is nothing to read back.
    with pytest.raises(Exception, match="split_info"):
        builder.download_and_prepare(
            download_config=download, file_format="array_record"
        )
    job = last(cloud)
    asking = {name for name, hint in job.hints().items() if hint == L4}
    models = {name.partition("/")[0] for name in asking if "BeamML_Run" in name}
    assert models == {"Generate", "Generate-1", "Score", "Diversify"}
    assert "no_use_multiple_sdk_containers" in job.experiments
    assert cloud.job_bytes[-1] < 100_000


# The images.


def requirements_of(*wanted: str) -> set[str]:
    """All that is installed with some requirements, as their own metadata say."""
    found: set[tuple[str, str]] = set()
    names: set[str] = set()
    todo = [Requirement(each) for each in wanted]
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        names.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                further = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                # Only CUDA's and the TPU's libraries.
                continue
            for each in map(Requirement, further):
                if each.marker is None or each.marker.evaluate({"extra": extra}):
                    todo.append(each)
    return names


@pytest.mark.parametrize("jax", ["cuda12", "tpu", ""])
def test_no_image_has_tensorflow(jax):
    dockerfile = (IMAGES / "Dockerfile").read_text()
    extras = re.search(r'"\.\[([\w,]+)\]"', dockerfile)[1]
    names = requirements_of(f"x-instruction[{extras}]", f"jax[{jax}]")
    assert {"apache-beam", "jax", "google-cloud-storage", "trafilatura"} <= names
    heavy = {n for n in names if re.match("tensorflow|keras|tf-|torch", n)}
    # The readers of data sets, without TensorFlow itself.
    assert heavy <= {"tensorflow-datasets", "tensorflow-metadata"}
    pins = (REPOSITORY / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = {line.partition("==")[0].replace(".", "-") for line in pins.splitlines()}
    assert names - pinned <= {"x-instruction"}


def test_the_command_line_of_tfds_would_bring_tensorflow():
    """So the test above can fail."""
    assert "tensorflow-cpu" in requirements_of("x-instruction[build]")


def test_images_have_the_beam_that_is_pinned():
    dockerfile = (IMAGES / "Dockerfile").read_text()
    pin = re.search(
        r"^apache-beam==(.*)$", (REPOSITORY / "constraints.txt").read_text(), re.M
    )[1]
    assert set(re.findall(r"beam_python3\.11_sdk:([\d.]+)", dockerfile)) == {pin}
    assert re.search(r"^FROM python:3\.11", dockerfile, re.M)
    assert '\nENTRYPOINT ["/opt/apache/beam/boot"]\n' in dockerfile


# The flex template.


def metadata() -> dict[str, Any]:
    return json.loads((TEMPLATE / "metadata.json").read_text())


def test_the_template_is_described_as_dataflow_wants_it():
    described = metadata()
    # Unknown fields and kinds of parameters are errors here.
    json_format.ParseDict(described, TemplateMetadata()._pb)
    assert described["name"] and described["description"]
    names = [each["name"] for each in described["parameters"]]
    assert len(names) == len(set(names)) > 5
    for each in described["parameters"]:
        assert each["label"] and each["helpText"], each
        assert isinstance(each["isOptional"], bool)
        assert each["paramType"]
        assert all(re.compile(regex) for regex in each["regexes"])


def test_every_parameter_of_the_template_is_one_that_we_take():
    values = {
        "recipe": "my.toml",
        "store": STORE,
        "until": "candidates",
        "accelerator": L4,
        "dataflow_service_options": TPU,
        "sdk_container_image": "us-docker.pkg.dev/my-project/images/gpu:1",
        "number_of_worker_harness_threads": "2",
        "disk_size_gb": "100",
        "engine_batch_size": "256",
        "model_parallel": "1",
    }
    parameters = {each["name"]: each for each in metadata()["parameters"]}
    assert parameters.keys() == values.keys()
    for name, value in values.items():
        for regex in parameters[name]["regexes"]:
            assert re.fullmatch(regex, value), name
            assert not re.fullmatch(regex, "no such ; value"), name
    required = {n for n, each in parameters.items() if not each["isOptional"]}
    assert required == {"recipe", "store"}
    ours = {"recipe", "store", "until"}
    flags = [f"--{name}={value}" for name, value in values.items() if name not in ours]
    cli.pipeline_options(flags)


def test_the_launcher_describes_a_job_with_a_recipe_from_the_bucket(cloud, recipe):
    """Dataflow then starts what is described: the launcher itself starts nothing."""
    launcher = example("launch", "deploy/dataflow")
    cloud.objects["my.toml"] = recipe.read_bytes()
    flags = [f"--recipe=gs://{BUCKET}/my.toml", f"--store={STORE}", *cloud.flags]
    template = f"--template_location=gs://{BUCKET}/template"
    before = len(cloud.jobs)
    assert launcher.main([*flags, template, "--until=documents"]) == 0
    assert len(cloud.jobs) == before
    described = json.loads(cloud.objects["template"])
    assert described["environment"]["workerPools"]
    assert json.loads(cloud.objects["store/recipe.json"])["name"] == "test"


def test_the_template_starts_the_launcher():
    dockerfile = (IMAGES / "Dockerfile").read_text()
    at = re.search(r"FLEX_TEMPLATE_PYTHON_PY_FILE=(\S+)", dockerfile)[1]
    assert re.search(rf"^COPY deploy/dataflow/launch.py {at}$", dockerfile, re.M)


# What is written about it.


def test_the_commands_of_the_readme_are_taken():
    text = (TEMPLATE / "README.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    common = next(block for block in blocks if block.startswith("--runner"))
    text = (
        "".join(blocks)
        .replace("\\\n", " ")
        .replace("$COMMON", " ".join(common.split()))
    )
    runs = [line for line in text.splitlines() if re.match("xinst run my.toml", line)]
    tfds_build = re.search(r"--beam_pipeline_options=(\S+)", text)[1]
    runs.append(
        " ".join(f"--{each}" for each in tfds_build.split(",")).replace(";", r"\;")
    )
    assert len(runs) == 4
    for line in runs:
        flags = [word for word in shlex.split(line) if word.startswith("--")]
        flags = [flag for flag in flags if flag not in ("--store", "--until")]
        options = cli.pipeline_options(flags)
        assert options.get_all_options()["runner"] == "DataflowRunner"
        share_accelerators(options)
        asked = options.view_as(DebugOptions).number_of_worker_harness_threads
        assert (asked is None) == ("documents" in line)


def test_the_costs_of_the_readme_are_what_the_script_prints():
    cost = example("dataflow_cost", "benchmarks")
    given = {name: each.value for name, each in cost.ASSUMPTIONS.items()}
    assert f"\n{cost.table(given)}\n" in (TEMPLATE / "README.md").read_text()
    before = cost.lines(given)
    for name in given:
        after = cost.lines(given | {name: given[name] * 2})
        assert after != before, f"nothing depends on {name}"
    for line in before:
        names = set(re.findall(r"[a-z]\w*(?:-\w+)+|documents|passes", line.formula))
        assert names <= given.keys(), line.formula
