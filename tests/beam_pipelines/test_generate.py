import pytest

from beam_pipelines import generate

SWAHILI = (
    "Chemsha maji kwa dakika tano kabla ya kunywa, kisha yahifadhi kwenye chombo safi "
    "chenye mfuniko. Usiingize mikono ndani ya maji."
)


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("x" * 9, "instruction_too_short"),
        ("How long?!", None),
        ("Why is it so? " * 35 + "Tell me now", "instruction_too_long"),
        ("Chemsha maji kwa dakika tano kabla ya kunywa kila siku", "not_english"),
        ("पानी को कैसे उबालें और रखें?", "not_english"),
        ("How should drinking water be boiled and kept?", None),
        ("Summarize the following article in two lines.", "ill_posed"),
        ("Translate this text into Swahili.", "ill_posed"),
        ("Translate the sentence above.", "ill_posed"),
        ("What is the main idea of the passage above?", "ill_posed"),
        ("Open the link below and tell me what it says.", "ill_posed"),
        ("Find a video on boiling water.", "ill_posed"),
        ("Explain how to write a good article about water.", None),
        ("Tell me a story in which the village gets a well.", None),
        ("How do I link two bank accounts on my phone?", None),
    ],
)
def test_the_first_broken_rule_is_named(instruction, reason):
    assert generate.reject_reason(instruction, SWAHILI) == reason


def test_length_bounds_are_inclusive():
    sentence = "How do I keep clean water at home when the rains are late this year? "
    at_most = (sentence * 10)[: generate.MAX_CHARS]
    assert len(at_most) == 500
    assert generate.reject_reason(at_most, SWAHILI) is None
    over = f"{at_most}a"
    assert generate.reject_reason(over, SWAHILI) == "instruction_too_long"


def test_copying_more_than_half_is_rejected():
    response = "Keep the water in a clean pot with a lid and a tap near the bottom."
    copy = "Keep the water in a clean pot with a lid?"
    assert generate.copied_share(copy, response) == 1
    assert generate.reject_reason(copy, response) == "copies_response"
    # One 4-gram of five is shared.
    loose = "Tell me about a clean pot with handles"
    assert generate.copied_share(loose, response) == pytest.approx(1 / 5)
    assert generate.reject_reason(loose, response) is None
