"""Rules on instructions: each at its bounds, and what is ill-posed in many words."""

import dataclasses
import difflib
import json
import random
import string

import pytest

from beam_pipelines import instructions
from beam_pipelines.recipe import INSTRUCTION_RULES, Instructions
from beam_pipelines.schema import Candidate, Document
from tests.conftest import REPOSITORY

SWAHILI = (
    "Chemsha maji kwa dakika tano kabla ya kunywa, kisha yahifadhi kwenye chombo safi "
    "chenye mfuniko. Usiingize mikono ndani ya maji."
)
ALL = Instructions()

# Each asks for something that the instruction does not bring.
ILL_POSED = (
    "Summarize the following article in two lines.",
    "Translate this text into Swahili.",
    "Translate the sentence above.",
    "What is the main idea of the passage above?",
    "Open the link below and tell me what it says.",
    "Find a video on boiling water.",
    "Find me a link to the match results.",
    "Summarize.",
    "Translate to English.",
    "Summarize in one sentence.",
    "Summarize the news about the election in Kenya.",
    "Summarize the speech of the minister in five points.",
    "Translate the following news article into Finnish.",
    "Translate the statement by the president into Hindi.",
    "Please summarize this news report.",
    "Can you paraphrase the given paragraph in simpler words?",
    "Rewrite the text below in a formal style.",
    "Proofread this email and correct its mistakes.",
    "Shorten the given passage to 50 words.",
    "Classify the following sentences as positive or negative.",
    "Extract all names of people from the given text.",
    "Give a summary of the article.",
    "Give me a short summary of the above text.",
    "Provide a summary of the news in three sentences.",
    "Write a headline for this news story.",
    "Generate a headline for the article.",
    "Write a title for the given poem.",
    "According to the text, why did the farmers protest?",
    "According to the passage, when was the bridge built?",
    "What does the author of this passage think about schools?",
    "What is the author's opinion on free trade?",
    "Who is the speaker addressing in the poem?",
    "Describe the picture in your own words.",
    "What is happening in this photo?",
    "Look at the image and write a caption for it.",
    "Watch the video and list its three main points.",
    "Explain what the code below does.",
    "Find the errors in the following code.",
    "Use the table above to answer the question.",
    "Based on the information given, answer the questions.",
    "Answer the following question.",
    "Answer the question based on the context.",
    "Read the passage and answer the question.",
    "Read the following story and tell me its moral.",
    "Complete the sentence with the right word.",
    "Fill in the blanks with suitable verbs.",
    "Choose the correct option from those given below.",
    "Is the following statement true or false?",
    "What is the sentiment of this review?",
    "Reply to this message politely.",
    "Continue the story.",
    "Identify the main theme of the poem.",
    "Rephrase the sentence so that it sounds more polite.",
    "Make this paragraph easier to read.",
    "Correct the grammar of the sentence.",
    "Give the English translation of the verse.",
    "Explain the meaning of the following verse.",
    "Write a review of this book.",
    "Click on the link to see the full announcement.",
    "Check the attached document for spelling errors.",
    "Convert the following text to bullet points.",
    "Given the article, write three questions about it.",
    "Given a passage, find its keywords.",
    "What are the key points of the article?",
    "Tell me what this article is about.",
    "What is this website about?",
    "Turn the news into a tweet.",
    "Write a caption for the photo of the president.",
    "Provide a link to the ministry's announcement.",
    "Rewrite it in simple words.",
)
WELL_POSED = (
    "Explain how to write a good article about water.",
    "Tell me a story in which the village gets a well.",
    "How do I link two bank accounts on my phone?",
    "How should drinking water be boiled and kept?",
    "Summarize the history of Finland.",
    "Summarize the plot of Romeo and Juliet.",
    "Summarize the benefits of sleeping early.",
    "Translate 'good morning' into Finnish.",
    'Translate the word "water" into Tamil.',
    "Translate this sentence into Swahili: The children are going to school.",
    "What does this proverb mean: Haraka haraka haina baraka?",
    "Explain the meaning of the proverb 'Many hands make light work'.",
    "Write a story about a photo album.",
    "Write a short story about a lost dog. The story should have a happy ending.",
    "Write an article about solar energy. The article should have three sections.",
    "Write a poem about rain. In this poem, do not use the word 'water'.",
    "Write a news article about a flood in Dhaka.",
    "Write a headline about the opening of a new school.",
    "Describe the traditional wedding clothes of Turkey.",
    "What is the link between smoking and cancer?",
    "How can I upload a video to my phone?",
    "Which camera takes the best pictures at night?",
    "How do I translate a document into Urdu for a visa?",
    "Explain how to summarize a text in five steps.",
    "What are good ways to paraphrase a sentence?",
    "How do you find the main idea of a text?",
    "What is a passage plan in navigation?",
    "What happened this year in Indonesian football?",
    "What should I do this week to prepare for an exam?",
    "How will the following season change the league table?",
    "How high above sea level is Nairobi?",
    "What happens to water below zero degrees?",
    "Explain article 5 of the constitution of India.",
    "Tell me the story of David and Goliath.",
    "Who wrote the poem 'Gitanjali'?",
    "Who is the author of the novel Seven Brothers?",
    "Who was the first speaker of the parliament of Kenya?",
    "What is the story behind the name of Bangkok?",
    "Write a letter to the editor about bad roads.",
    "Write an email to my landlord about a broken tap.",
    "I wrote an email to my boss last week. How do I follow up on the email politely?",
    "List the main points of the Paris Agreement.",
    "Classify the following animals as mammals or birds: cow, duck, goat, hen.",
    "Correct the grammar in this sentence: He go to school every days.",
    "Rewrite the following sentence in the passive voice: The dog bit the man.",
    "How do I write a website in HTML?",
    "What is the best website for learning Vietnamese?",
    "How do I delete a post on social media?",
    "What is the price of the Samsung Galaxy in Thailand?",
    "Give me a list of books about gardening.",
    "Explain this rule of football: offside.",
    "What documents do I need for a passport?",
    "How do I attach a document to an email?",
    "Create a table of the planets and their moons.",
    "What does the Quran say about charity?",
    "According to the constitution, who elects the president of Finland?",
    "According to the World Bank, how many people live in poverty?",
    "Given my small budget, where should I travel in Vietnam?",
    "At a given temperature, how does pressure change with volume?",
    "How do I take a photo of the moon?",
    "What is a statement of purpose for a university?",
    "Describe how a camera forms a picture.",
    "Why is reading news every day useful?",
    "How do I write the abstract of a thesis?",
    "What are the rules of this year's lottery in Turkey?",
    "Where can I watch the final of the world cup?",
    "Write a speech for a graduation ceremony.",
    "Announce the results of the village election.",
    "Find the area of a circle with a radius of 4 cm.",
    "How do I edit a photo on a computer?",
    "Write an essay about rice and begin this essay with a question.",
    "Which herbs grow in the shade, and where can I find these products?",
)
# Written at the same time and tried once the rules stood; two then mended a rule.
LATER_ILL_POSED = (
    "Condense the report into one paragraph.",
    "Translate the passage to Turkish, please.",
    "Could you translate this poem for me?",
    "Simplify the text for children.",
    "List the places mentioned in the article.",
    "What lesson does the story above teach?",
    "Who are the main characters in this story?",
    "What does the graph show?",
    "Answer the questions below in full sentences.",
    "Pick the best title for the passage.",
    "What is the tone of the letter?",
    "Find a picture of the new stadium.",
    "Give the gist of the announcement in one line.",
    "Make a list of the verbs in the text.",
    "Based on the article, what caused the fire?",
    "Write three questions about the following paragraph.",
    "Write a conclusion for this essay.",
    "Explain the joke above.",
    "Summarise the minister's statement.",
    "How would you describe the mood of this song?",
    "Convert the data below into a table.",
    "Detect the language of the given sentence.",
    "Tell me whether this tweet is offensive.",
    "Edit the paragraph so that it has no repetitions.",
    "Show me a video of the goal.",
    "Who wrote this article and when?",
    "Describe the chart in two sentences.",
    "Translate it into Bengali.",
    "Find the link to the recipe.",
    "In the excerpt, what does the king decide?",
)
LATER_WELL_POSED = (
    "Condense milk at home: how is it done?",
    "Translate the phrase 'thank you' into Thai, Hindi and Urdu.",
    "How do translators work with poems?",
    "Simplify the fraction 12/18.",
    "List the places to visit in Chiang Mai.",
    "What lesson does the fable of the tortoise and the hare teach?",
    "Who are the main characters in Hamlet?",
    "How do I read a bar graph?",
    "Write a quiz of ten questions on the human heart.",
    "What makes a good title for a blog post?",
    "How do I close a formal letter?",
    "Draw up a plan for a new stadium.",
    "How was the independence of Tanzania announced?",
    "Make a list of common Finnish verbs.",
    "What caused the great fire of Turku?",
    "Write a paragraph on the uses of bamboo. The paragraph must be under 100 words.",
    "What belongs in the conclusion of an essay?",
    "Tell me a joke about a goat.",
    "Summarise the causes of the first world war.",
    "How would you describe the mood of a rainy evening?",
    "Convert 50 miles to kilometres.",
    "Which language is spoken in Lahore?",
    "Is it rude to answer a message late?",
    "How do I edit a long video on a laptop?",
    "What was the score of the first goal in 1930?",
    "Who wrote the national anthem of India?",
    "Describe the life of a fisherman on this coast of Kenya.",
    "How does this kind of insurance work in Indonesia?",
    "How do I find the right link for a bicycle chain?",
    "What does the lion decide in the tale of the lion and the mouse?",
)


def reason(instruction, response=SWAHILI, settings=ALL):
    return instructions.reject_reason(instruction, response, settings)


def without(*rules):
    return Instructions(rules=tuple(set(INSTRUCTION_RULES) - set(rules)))


# One that breaks a rule, and the rules that it breaks besides.
BREAKING = {
    "instruction_too_short": ("Why so?", SWAHILI, ()),
    "instruction_too_long": ("Why is it so? " * 36, SWAHILI, ()),
    "bad_start": ("• How do I keep clean water at home?", SWAHILI, ()),
    "not_english": ("पानी को कैसे उबालें और रखें?", SWAHILI, ()),
    "ill_posed": ("Summarize the article above in two lines.", SWAHILI, ()),
    "copies_response": (
        "Keep the water in a clean pot, with a lid?",
        "Keep the water in a clean bowl. A clean pot with a lid costs little. In a "
        "clean pot with a lid water is safe.",
        (),
    ),
    "leaks_answer": (
        "Is it Chemsha maji kwa dakika tano kabla, tell us?",
        SWAHILI,
        ("not_english", "copies_response"),
    ),
}


def test_every_rule_has_a_case_and_no_rule_is_without_code():
    assert tuple(BREAKING) == tuple(instructions._BREAKS) == INSTRUCTION_RULES


@pytest.mark.parametrize("rule", INSTRUCTION_RULES)
def test_a_rule_applies_when_it_is_named_and_only_then(rule):
    instruction, response, besides = BREAKING[rule]
    assert reason(instruction, response, Instructions(rules=(rule,))) == rule
    assert reason(instruction, response, without(*besides)) == rule
    assert reason(instruction, response, without(rule, *besides)) is None
    # No rule fails on an instruction without a character.
    assert reason("", "", Instructions(rules=(rule,))) in (rule, None)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("How long?!", None),
        ("How long!", "instruction_too_short"),
        ("Chemsha maji kwa dakika tano kabla ya kunywa kila siku", "not_english"),
        ("“Many hands make light work”: who said so?", None),
        ("Émile Zola wrote which novels?", None),
        ("– How do I boil water?", "bad_start"),
        ("- How do I boil water?", None),
        ("How should drinking water be boiled and kept?", None),
    ],
)
def test_the_first_broken_rule_is_named(instruction, expected):
    assert reason(instruction) == expected


def test_length_bounds_are_inclusive_and_those_of_the_recipe():
    sentence = "How do I keep clean water at home when the rains are late this year? "
    long = (sentence * 10)[:500]
    assert reason(long) is None
    assert reason(f"{long}a") == "instruction_too_long"
    narrow = Instructions(min_chars=20, max_chars=30)
    found = {n: reason(long[:n], settings=narrow) for n in (19, 20, 30, 31)}
    short, many = "instruction_too_short", "instruction_too_long"
    assert found == {19: short, 20: None, 30: None, 31: many}


def test_copying_more_than_the_bound_is_rejected():
    response = "Keep the water in a clean pot with a lid and a tap near the bottom."
    copy = "Keep the water in a clean pot with a lid?"
    assert instructions.copied_share(copy, response) == 1
    assert reason(copy, response) == "copies_response"
    # One 4-gram of five is shared.
    loose = "Tell me about a clean pot with handles"
    assert instructions.copied_share(loose, response) == pytest.approx(1 / 5)
    assert reason(loose, response) is None
    assert reason(loose, response, Instructions(max_copied=0.2)) is None
    assert reason(loose, response, Instructions(max_copied=0.19)) == "copies_response"


def test_leaked_share_is_the_longest_run_of_both():
    draw = random.Random(0)
    for _ in range(100):
        quote = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(20, 60)))
        asked = f"What is  {quote.upper()} about?"
        text = f"{draw.random()} {quote}, {draw.random()}"
        ours, theirs = " ".join(asked.lower().split()), text
        match = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
        run = match.find_longest_match().size
        expected = run / len(ours) if run >= 30 else 0
        assert instructions.leaked_share(asked, text) == pytest.approx(expected)


def test_a_name_is_no_leak_and_half_of_the_instruction_may_be_quoted():
    name = "Jalaluddin Muhammad Rumi"
    asked, text = f"Who was {name}?", f"{name} alizaliwa mwaka 1207."
    assert instructions.leaked_share(asked, text) == 0
    quote = "xy" * 20
    for rest, expected in ((40, None), (39, "leaks_answer")):
        settings = Instructions(rules=("leaks_answer",))
        assert reason(quote + "." * rest, f"{quote}!", settings) == expected


def candidate(instruction, rejected=""):
    values = {field.name: "" for field in dataclasses.fields(Document)}
    document = Document(**values | {"text": SWAHILI})
    return Candidate(
        document=document,
        instruction=instruction,
        generator="g",
        logprob=-1.0,
        rejected=rejected,
    )


def test_what_the_generator_did_not_finish_is_never_used():
    good = "How should drinking water be boiled and kept?"
    none = Instructions(rules=())
    assert instructions.drop_reason(candidate(good), ALL) is None
    assert instructions.drop_reason(candidate(good, "unfinished"), none) == "unfinished"
    failed = candidate("", "failed: the prompt is too long: 9 tokens")
    assert instructions.drop_reason(failed, none) == "failed"
    assert instructions.drop_reason(candidate("Why?"), none) is None
    assert instructions.drop_reason(candidate("Why?"), ALL) == "instruction_too_short"


@pytest.mark.parametrize("instruction", ILL_POSED + LATER_ILL_POSED)
def test_what_asks_for_an_absent_input_is_ill_posed(instruction):
    assert instructions.is_ill_posed(instruction)
    assert instructions.is_ill_posed(instruction.replace(" ", "\n", 1).upper())


@pytest.mark.parametrize("instruction", WELL_POSED + LATER_WELL_POSED)
def test_what_can_be_answered_as_it_stands_is_well_posed(instruction):
    assert not instructions.is_ill_posed(instruction)


def test_no_instruction_of_the_seed_breaks_a_rule():
    files = sorted((REPOSITORY / "examples" / "seed").glob("*.jsonl"))
    pairs = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
    assert len(pairs) > 1000
    broken = {reason(p["instruction"], p["response"]): p["instruction"] for p in pairs}
    assert broken.keys() == {None}, broken
