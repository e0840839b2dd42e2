"""Root verbs and objects, against a table that was written by hand."""

import pytest

from beam_pipelines import verbs

# Instruction → verb and noun; written for this test, before looking at what comes out.
TABLE = """
Write a poem about the sea. | write poem
Write a short news article on the election. | write article
Please write me a letter to my landlord. | write letter
Can you explain the water cycle? | explain cycle
Could you please suggest three names for a cat? | suggest name
I want you to act as a doctor. | act
Your task is to translate the sentence into Tamil. | translate sentence
Give me a list of ideas for a birthday party. | give list
Give students tips on how to revise. | give tip
Give beginners some advice on saving. | give advice
Tell me a joke about farmers. | tell joke
Tell us how bread is made. | tell
Tell me the names of two rivers. | tell name
Explain how to prune a mango tree. | explain
Explain why the sky is blue. | explain
Explain photosynthesis to a child. | explain photosynthesis
Describe the process of making soap. | describe process
Describe a busy, noisy market. | describe market
Describe what happens at a wedding. | describe
Summarise the main points of the speech. | summarize point
Summarize this. | summarize
List five benefits of walking. | list benefit
List the ingredients and steps for lentil soup. | list ingredient
Create a workout plan for beginners. | create plan
Generate a catchy headline for the story. | generate headline
Find a link to the official video. | find link
Provide an overview of solar energy. | provide overview
Compare cats and dogs. | compare cat
Come up with a name for a bakery. | come name
Think of a riddle whose answer is "time". | think riddle
Rewrite the following paragraph in simple words. | rewrite paragraph
Recognise and control fall armyworm in maize. | recognize armyworm
Discuss the advantages and disadvantages of tourism. | discuss advantage
Analyse the poem's structure. | analyze structure
Outline the causes of the war. | outline cause
Name one of the planets. | name planet
Calculate 15% of 240. | calculate
Design a poster for a school play. | design poster
Recommend some good books for children. | recommend book
Identify the verbs in the sentence. | identify verb
Classify the animals into mammals and birds. | classify animal
Convert 5 miles to kilometres. | convert mile
Brainstorm ten creative uses for old tyres. | brainstorm use
Imagine you are a king. | imagine
Do not use salt; use herbs. | use salt
Quickly draft an email to the whole team. | draft email
Now edit the text for grammar. | edit text
In 100 words, describe the water festival. | describe festival
In simple terms, explain inflation. | explain inflation
As a nurse, give advice to new mothers. | give advice
If a snake bites someone, what should they do? | do
Given a number, decide whether it is prime. | decide
Using the facts below, write a summary. | write summary
You are given a sentence, and you need to correct it. | correct
You will read a tweet and you should label it. | read tweet
My bicycle squeaks. How can I fix it? | fix
I have a fever; what medicine should I take? | take medicine
I would like to learn Finnish. Suggest a study plan. | learn finnish
Help me plan a trip to Turku. | plan trip
Let's build a raft. | build raft
Germinate the seeds on wet paper. | germinate seed
How do I clean a well? | clean well
How do you make fried rice at home? | make rice
How can I quickly peel garlic? | peel garlic
How can my family prevent malaria during the rains? | prevent malaria
How does a vaccine work? | work
How does a home water filter work? | work
How do solar panels produce electricity? | produce electricity
How do whales echolocate? | echolocate
How to store onions for months | store onion
How should maize seed be sown? | sow
How is cheese made? | make
How much water does a cow drink each day? | drink water
How many eggs do I need? | need egg
How often should I water young tomatoes? | water tomato
How should a village dig and protect a shallow well? | dig well
How can a household save water? | save water
How do I make dirty water safe? | make water
Which type of rice should I choose for porridge? | choose type
What pests harm beans, and what should I do? | harm bean
What is a comet, and how does it move? |
Which foods should pregnant women avoid? | avoid food
Which crops grow in salty soil? | grow
Which medicine treats malaria, and who should take it? | treat malaria
What should visitors do in a mosque? | do
What causes earthquakes? | cause earthquake
What happens when iron is heated? | happen
What does a lawyer do? | do
What do I need to open a shop? | need
What records should a shop owner keep? | keep record
How can I practise passing? | practice passing
You will need to compose a song. | compose song
How should players warm up before a match? | warm
What rights does a tenant have? | have right
Who wrote the national anthem? | write anthem
Who discovered penicillin? | discover penicillin
Why do leaves fall in autumn? | fall
Why should I wash my hands before eating? | wash hand
Why did the empire collapse? | collapse
When and how should I prune roses? | prune rose
Where can I buy school uniforms? | buy uniform
Do bees sleep? | sleep
Does sugar harm teeth? | harm tooth
What is malaria? |
What are the symptoms of diabetes? |
Is brown rice healthier than white rice? |
Are there lions in India? |
Who was the first president? |
Why is the sea salty? |
Tips for new parents |
List of rivers in Asia |
A recipe for flat bread |
Answer: |
12345 |
"""
ROWS = [
    (text.strip(), tuple((*expected.split(), "", "")[:2]))
    for text, _, expected in (
        line.partition(" |") for line in TABLE.strip().splitlines()
    )
]


def test_the_table_is_met():
    wrong = {
        text: (verbs.root(text), expected)
        for text, expected in ROWS
        if verbs.root(text) != expected
    }
    assert len(ROWS) > 100
    # All are met today; a better rule may cost one.
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    "opening",
    [
        *("", "Please ", "Can you ", "Could you please ", "I want you to ", "Now, "),
        *("Your task is to ", "I'd like you to ", "Hello, please ", "- ", '"', "1. "),
    ],
)
def test_an_opening_changes_nothing(opening):
    assert verbs.root(f"{opening}write a short story about a fox.") == (
        "write",
        "story",
    )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "?",
            ",,,",
            "…",
            "\x00",
            "ไม่",
            "do",
            "how",
            "what is",
            "'s",
            "\ud800",
        ),
        *("please", "in, of, at, if, if", "how to", "give the", "who", "if " * 5000),
    ],
)
def test_any_string_is_taken(text):
    verb, noun = verbs.root(text)
    assert isinstance(verb, str) and isinstance(noun, str)


@pytest.mark.parametrize(
    ("plural", "noun"),
    [
        *(("stories", "story"), ("boxes", "box"), ("children", "child")),
        *(("news", "news"), ("glass", "glass"), ("leaves", "leaf"), ("pies", "pie")),
    ],
)
def test_nouns_are_lemmas(plural, noun):
    assert verbs.root(f"Describe the {plural} of the town.") == ("describe", noun)


def test_counts_add_up():
    texts = ["Write a poem.", "Write two poems.", "What is rain?"]
    assert verbs.count(texts) == {("write", "poem"): 2, ("", ""): 1}
