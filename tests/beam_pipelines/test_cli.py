"""What a person sees who types something wrong."""

import errno

import pytest

from beam_pipelines import cli
from tests.conftest import REPOSITORY

RECIPE = (REPOSITORY / "examples" / "demo.toml").read_text()


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"
    path.write_text(RECIPE)
    return path


def run(capsys, *arguments: str) -> str:
    """The message of a command that fails; a stack trace is no message."""
    assert cli.main(arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_a_misspelt_beam_flag_is_refused(recipe, capsys, tmp_path):
    message = run(capsys, "run", str(recipe), "--store", "s", "--runer=DataflowRunner")
    assert "Beam knows no option 'runer'" in message
    assert not (tmp_path / "s").exists()


def test_a_stray_word_is_refused(recipe, capsys):
    message = run(capsys, "run", str(recipe), "--store", "s", "candidates")
    assert "'candidates'" in message


def test_beam_flags_and_ours_are_taken():
    options = cli.pipeline_options(
        ["--direct_num_workers=2", "--engine_batch_size", "8"]
    ).get_all_options()
    assert options["direct_num_workers"] == 2
    assert options["engine_batch_size"] == 8
    assert options["runner"] == "FnApiRunner"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("min_chars", "min_char"), "Did you mean 'min_chars'?"),
        (('"fi"', '"xx"'), "'xx' is none of ours"),
        (("min_chars = 200", "min_chars = 3000"), "0 < min_chars <= max_chars"),
        (("seed = 0", "seed = true"), "key 'seed' is True; expected a whole number"),
        (("[source]", "[source"), "is no TOML"),
    ],
)
def test_a_wrong_recipe_is_explained(recipe, capsys, change, message):
    assert change[0] in RECIPE
    recipe.write_text(RECIPE.replace(*change))
    assert message in run(capsys, "run", str(recipe), "--store", "s")


def test_a_missing_recipe_is_named(capsys, tmp_path):
    missing = str(tmp_path / "no.toml")
    message = run(capsys, "run", missing, "--store", "s")
    assert f"Recipe {missing}: No such file or directory." in message


def test_files_that_are_not_there_are_named(recipe, capsys):
    message = run(capsys, "run", str(recipe), "--store", "s", "--until", "documents")
    assert "'out/demo/crawl/*.warc.gz' matches no file" in message


def test_a_missing_checkpoint_is_named(recipe, capsys, tmp_path):
    crawl = tmp_path / "out" / "demo" / "crawl"
    crawl.mkdir(parents=True)
    (crawl / "a.warc.gz").write_bytes(b"no archive")
    message = run(capsys, "run", str(recipe), "--store", "s", "--until", "candidates")
    assert "No checkpoint in 'out/demo/checkpoints/generator'" in message
    assert "xinst train generator" in message


def test_a_store_that_is_not_there_is_named(capsys, tmp_path):
    out = tmp_path / "report.html"
    message = run(capsys, "report", str(tmp_path / "no"), "--out", str(out))
    assert f"No store in '{tmp_path / 'no'}'" in message
    assert not out.exists()


def test_a_missing_seed_is_named(recipe, capsys):
    message = run(capsys, "train", "generator", str(recipe))
    assert "Seed 'examples/seed/*.jsonl' matches no file" in message


def test_eval_reads_its_files_before_the_model(capsys, tmp_path):
    message = run(capsys, "eval", str(tmp_path / "no"))
    assert "name files by --choice or --prompts" in message
    file = tmp_path / "val.id.jsonl"
    file.write_text('{"premise": "Air itu panas."}')
    message = run(capsys, "eval", str(tmp_path / "no"), "--choice", str(file))
    assert "val.id.jsonl:1: choice1 is None" in message
    file.write_text('{"instruction": "Say it.", "language": "Finnish"}')
    message = run(capsys, "eval", str(tmp_path / "no"), "--prompts", str(file))
    assert "no" in message and "No such file" in message


def test_check_of_what_is_not_there_is_explained(capsys, tmp_path):
    message = run(capsys, "check", str(tmp_path / "no.jsonl"))
    assert "no.jsonl: No such file or directory" in message
    message = run(capsys, "check", str(tmp_path))
    assert f"No data set in {tmp_path}. Was it built?" in message


def test_a_full_disk_is_told_and_leaves_no_half_written_part(
    recipe, capsys, tmp_path, monkeypatch
):
    crawl = tmp_path / "out" / "demo" / "crawl"
    crawl.mkdir(parents=True)
    (crawl / "a.warc.gz").write_bytes(b"no archive")
    from apache_beam.io.localfilesystem import LocalFileSystem

    def full(self, source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    command = ("run", str(recipe), "--store", "s", "--until", "documents")
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rename", full)
        assert "No space left on device" in run(capsys, *command)
    left = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert left == []
    assert cli.main(command) == 0


def test_a_worker_s_exception_is_told_by_its_last_line():
    error = RuntimeError(
        "Traceback (most recent call last):\n  File x, line 1, in f\n    g()\n"
        "ValueError: p needs 0 < p, got p=-1. [while running 'Read']\n"
    )
    assert (
        cli.explain(error)
        == "ValueError: p needs 0 < p, got p=-1. [while running 'Read']"
    )
