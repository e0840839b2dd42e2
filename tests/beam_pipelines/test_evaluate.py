import math

import pytest

from beam_pipelines import evaluate
from beam_pipelines.recipe import Evaluator
from beam_pipelines.schema import Candidate, Document


@pytest.fixture
def candidate():
    document = Document(
        id="a",
        url="https://maji.example/",
        domain="maji.example",
        date="2026-01-12T00:00:00Z",
        warc_file="x.warc.gz",
        warc_offset=0,
        warc_length=1,
        digest="",
        language="sw",
        language_score=1.0,
        text="Maji safi.",
        robots=(),
        license="",
        checks={},
    )
    return Candidate(
        document=document,
        instruction="Why clean water?",
        generator="g",
        logprob=-1.0,
        rejected="",
    )


def test_the_score_counts_flawed_pairs_half(candidate):
    score = evaluate.score_of(candidate, (0.5, 0.25, 0.25), {"language": 0.123456}, "e")
    assert (score.p_best, score.p_flawed, score.p_worst) == (0.5, 0.25, 0.25)
    assert score.score == 0.625
    assert score.evidence == {"language": 0.1235}
    assert score.rejected == ""


def test_what_cannot_be_rated_is_rejected_and_not_kept(candidate):
    score = evaluate.score_of(candidate, [math.nan] * 3, {"a": 1.0}, "e")
    settings = Evaluator(checkpoint="", keep_above=0.0)
    assert score.rejected
    assert score.evidence == {}
    assert evaluate.drop_reason(score, settings) == "failed"


def test_the_threshold_itself_is_kept(candidate):
    score = evaluate.score_of(candidate, (0.5, 0.25, 0.25), {}, "e")
    for keep_above, reason in ((0.5, None), (0.500001, "below_threshold")):
        settings = Evaluator(checkpoint="", keep_above=keep_above)
        assert evaluate.drop_reason(score, settings) == reason
