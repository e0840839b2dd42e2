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


def test_probabilities_are_normalised_over_the_three_labels(candidate):
    # Three of the vocabulary's probabilities: they do not sum to 1 themselves.
    logprobs = [math.log(0.02), math.log(0.01), math.log(0.01)]
    score = evaluate.score_of(candidate, logprobs, "e")
    assert (score.p_best, score.p_flawed, score.p_worst) == (0.5, 0.25, 0.25)
    assert score.score == 0.625
    assert score.rejected == ""


def test_tiny_probabilities_do_not_underflow(candidate):
    score = evaluate.score_of(candidate, [-2000.0, -2001.0, -2002.0], "e")
    assert score.p_best == pytest.approx(1 / (1 + math.e**-1 + math.e**-2), abs=1e-6)


def test_what_cannot_be_rated_is_rejected_and_not_kept(candidate):
    score = evaluate.score_of(candidate, [math.nan] * 3, "e")
    settings = Evaluator(checkpoint="", keep_above=0.0)
    assert score.rejected
    assert evaluate.drop_reason(score, settings) == "failed"


def test_the_threshold_itself_is_kept(candidate):
    score = evaluate.score_of(candidate, [math.log(2), 0.0, 0.0], "e")
    for keep_above, reason in ((0.5, None), (0.500001, "below_threshold")):
        settings = Evaluator(checkpoint="", keep_above=keep_above)
        assert evaluate.drop_reason(score, settings) == reason
