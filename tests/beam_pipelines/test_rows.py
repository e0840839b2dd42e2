"""Data sets as others write them, and what of them cannot be used."""

import gzip
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from beam_pipelines import rows

GOOD = [
    {"instruction": f"Say {n}.", "output": f"Sano {n}.", "output_language": "fi"}
    for n in range(5)
]


def lines(values) -> bytes:
    return "\n".join(map(json.dumps, values)).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", lines(GOOD)),
        ("a.json", json.dumps(GOOD).encode()),
        ("a.jsonl.gz", gzip.compress(lines(GOOD))),
        ("a.json.gz", gzip.compress(json.dumps(GOOD).encode())),
    ],
)
def test_every_form_gives_the_same_rows(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    found = list(rows.read(str(tmp_path / name)))
    assert [(row.instruction, row.output) for row in found] == [
        (row["instruction"], row["output"]) for row in GOOD
    ]
    assert len({row.where for row in found}) == len(GOOD)


def write_tfds(folder, version: str, instructions: list[str]) -> None:
    text = tfds.features.Text
    tfds.dataset_builders.store_as_tfds_dataset(
        name="ours",
        version=version,
        data_dir=folder,
        features=tfds.features.FeaturesDict(
            {name: text() for name in ("instruction", "output", "output_language")}
            | {"domain": text(), "score": tfds.features.Scalar(np.float32)}
        ),
        split_datasets={
            "train": [
                (
                    number,
                    {
                        "instruction": instruction,
                        "output": "வணக்கம்",
                        "output_language": "ta",
                        "domain": "a.example",
                        "score": 0.5,
                    },
                )
                for number, instruction in enumerate(instructions)
            ]
        },
        file_format="array_record",
        disable_shuffling=True,
    )


def test_a_tfds_folder_is_read_from_any_level_in_its_newest_version(tmp_path):
    write_tfds(tmp_path, "0.9.0", ["Old."])
    write_tfds(tmp_path, "0.10.0", ["Say hello.", "Say it again."])
    for folder in (tmp_path, tmp_path / "ours", tmp_path / "ours" / "0.10.0"):
        found = list(rows.read(str(folder)))
        assert [row.instruction for row in found] == ["Say hello.", "Say it again."]
        assert found[0].output == "வணக்கம்"
        assert found[0].domain == "a.example"
        assert [row.where for row in found] == ["train[0]", "train[1]"]


def test_several_data_sets_in_a_folder_are_told_apart_by_the_user(tmp_path):
    write_tfds(tmp_path / "x", "0.1.0", ["One."])
    write_tfds(tmp_path / "y", "0.1.0", ["Two."])
    with pytest.raises(ValueError, match=r"several data sets.*x.*y"):
        list(rows.read(str(tmp_path)))
    with pytest.raises(ValueError, match="Was it built"):
        (tmp_path / "empty").mkdir()
        list(rows.read(str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"instruction": 3', "no JSON"),
        (b"\x00\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1, 2]", "no object"),
        (b"null", "no object"),
        (lines([GOOD[0] | {"instruction": 7}]), "instruction is no text"),
        (lines([GOOD[0] | {"output": " \n"}]), "empty output"),
        (lines([GOOD[0] | {"output_language": "fr"}]), "is none of ours"),
        (b'{"instruction": "a", "output_language": "fi"}', "no output"),
    ],
)
def test_a_bad_line_costs_itself_and_is_located(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD[:2]) + b"\n\n" + line + b"\n" + lines(GOOD[2:]))
    found = list(rows.read(str(path)))
    bad = [row for row in found if isinstance(row, rows.BadRow)]
    assert [row.where for row in bad] == ["a.jsonl:4"]
    assert reason in bad[0].reason
    assert len(found) == len(GOOD) + 1


def test_a_clipped_archive_gives_what_it_had(tmp_path):
    many = [GOOD[0] | {"output": f"Sano {n * 7919 % 4001}."} for n in range(3000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(many))[:-2000])
    *found, last = rows.read(str(path))
    assert isinstance(last, rows.BadRow)
    assert 0 < len(found) < 3000
    assert [row.output for row in found[:-1]] == [
        row["output"] for row in many[: len(found) - 1]
    ]


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"instruction": "a", "response": "b"}] * 3))
    with pytest.raises(ValueError, match=r"'output', 'output_language'.*'response'"):
        list(rows.read(str(path)))


@pytest.mark.parametrize(
    ("given", "code"), [("fi", "fi"), ("Tamil", "ta"), (" UR", "ur")]
)
def test_a_language_is_a_code_or_a_name(tmp_path, given, code):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([GOOD[0] | {"output_language": given}]))
    assert [row.language for row in rows.read(str(path))] == [code]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(ValueError, match="expected a folder"):
        list(rows.read(str(tmp_path / "a.csv")))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        list(rows.read(str(tmp_path / "a.json")))
