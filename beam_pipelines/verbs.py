"""What an instruction asks for: its root verb, and the noun that is the verb's object.

Rules on words, in place of a parser: an instruction is short and opens with an
imperative, with a question, or with a courtesy before either. Standard library only.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Instructions begin with these, or ask with them how something is done.
_VERBS = frozenset(
    "accept achieve act add address adjust adopt advise affect afford agree aim allow "
    "analyze announce answer appear apply appreciate argue arrange arrive ask "
    "assemble assess assign assist assume attach attract avoid bake balance beat "
    "become begin behave believe bite blend boil book borrow bottle braid brainstorm "
    "break breathe breed bring build burn buy calculate call care carry carve catch "
    "categorize cause celebrate challenge change charge check choose cite claim "
    "classify clean clear climb close code collect combat combine come comment "
    "communicate compare complete compose compute conclude conduct configure confirm "
    "connect consider construct consult consume contact contain continue contrast "
    "contribute control convert convey convince cook cool copy correct cost count "
    "cover craft create criticize cross cultivate cure cut dance deal debug decide "
    "decline decorate decrease deduce define dehydrate delete deliver depend derive "
    "describe deserve design destroy detail detect determine develop devise diagnose "
    "die differ differentiate dig direct discover discuss dispose distinguish disturb "
    "divide do donate draft draw dream dress drink drive drop dry dye earn eat edit "
    "educate elaborate eliminate embroider emerge employ encourage end enhance enjoy "
    "enlist ensure enter enumerate establish estimate evaluate examine exchange "
    "execute exercise expand expect experience explain explore express extend extract "
    "fall farm feed feel fell ferment fetch fight file fill filter find finish fit "
    "fix fold follow forecast forget form formulate fry gain gather generate "
    "germinate get give go grade graft grind grow guess guide handle hang happen harm "
    "harvest heal hear help hide highlight hire hold hunt identify illustrate imagine "
    "implement improve include increase indicate infer influence inform insert "
    "inspect install instruct interpret introduce invent invest investigate invite "
    "irrigate join jot journal judge jump justify keep kill knead knit know label "
    "last laugh lay lead learn leave lend let lie lift light like link list listen "
    "live load locate look lose lower maintain make manage mark match matter mean "
    "measure meet melt memorize mend mention merge migrate milk mix modify monitor "
    "motivate mourn move multiply name navigate need negotiate note notice obey "
    "obtain offer open operate order organize outline overcome own pack paint "
    "paraphrase park parse participate pass patch pay peel perform persuade pick "
    "place plan plant plaster play plot pollinate post pour practice praise pray "
    "predict prefer prepare present preserve press prevent print proceed process "
    "produce promote pronounce proofread propose protect prove provide prune publish "
    "pull punctuate purchase push put qualify quit quote raise rank rate reach react "
    "read realize rebuild recall receive recite recognize recommend record recover "
    "reduce refer reflect refuse register regulate rehearse reject relate relax "
    "release relieve remain remember remind remove renew rent repair repeat rephrase "
    "replace reply report represent request require rescue research reset resolve "
    "respond rest restore retire return reuse reveal reverse review revise rewrite "
    "ride rise roast roll rotate run save say scan schedule score search season see "
    "seek select sell send separate serve set settle sew shape share sharpen shorten "
    "show shrink sign simplify simulate sing sit sketch sleep smell smoke snore soak "
    "solve sort sound sow speak specify speed spell spend split spot spread sprout "
    "stand start state stay steam stitch stop store strengthen study submit "
    "substitute succeed suffer suggest summarize supply support suppose survive sweep "
    "swim switch take talk tan taste teach tell test thank thin think throw tie tour "
    "trace track train transform translate transplant transport travel treat trim try "
    "turn type understand update upgrade use utilize validate vary verify visit wait "
    "wake walk want warm warn wash watch water wear weave weed weigh welcome win wish "
    "withdraw wonder work worry wrap write yield".split()
)
# Lemma: its other forms, where they are not made by rule.
_IRREGULAR = {
    form: lemma
    for lemma, forms in {
        "become": "became",
        "begin": "began begun beginning",
        "bite": "bit bitten",
        "break": "broke broken",
        "breed": "bred",
        "bring": "brought",
        "build": "built",
        "buy": "bought",
        "catch": "caught",
        "choose": "chose chosen",
        "come": "came",
        "deal": "dealt",
        "dig": "dug",
        "do": "does did done",
        "draw": "drew drawn",
        "drink": "drank drunk",
        "drive": "drove driven",
        "eat": "ate eaten",
        "fall": "fell fallen",
        "feed": "fed",
        "feel": "felt",
        "fight": "fought",
        "find": "found",
        "forget": "forgot forgotten",
        "get": "got gotten",
        "give": "gave given",
        "go": "goes went gone",
        "grind": "ground",
        "grow": "grew grown",
        "hang": "hung",
        "hear": "heard",
        "hide": "hid hidden",
        "hold": "held",
        "keep": "kept",
        "know": "knew known",
        "lay": "laid",
        "lead": "led",
        "leave": "left",
        "lend": "lent",
        "lose": "lost",
        "make": "made",
        "mean": "meant",
        "meet": "met",
        "pay": "paid",
        "rebuild": "rebuilt",
        "rewrite": "rewrote rewritten",
        "ride": "rode ridden",
        "rise": "rose risen",
        "run": "ran",
        "say": "said",
        "see": "saw seen",
        "seek": "sought",
        "sell": "sold",
        "send": "sent",
        "sew": "sewn",
        "show": "shown",
        "sing": "sang sung",
        "sit": "sat",
        "sleep": "slept",
        "sow": "sown",
        "speak": "spoke spoken",
        "spend": "spent",
        "stand": "stood",
        "sweep": "swept",
        "swim": "swam swum",
        "take": "took taken",
        "teach": "taught",
        "tell": "told",
        "think": "thought",
        "throw": "threw thrown",
        "understand": "understood",
        "wake": "woke woken",
        "wear": "wore worn",
        "weave": "wove woven",
        "win": "won",
        "withdraw": "withdrew withdrawn",
        "write": "wrote written",
    }.items()
    for form in forms.split()
}
_DOUBLED = frozenset(
    "begin cut dig drop fit get hit knit let mix plan plot put quit rub run set shop "
    "sit split spot stop swim thin tan trim win wrap skip pin".split()
)

_COURTESY = re.compile(
    r"(?:(?:and |so |but )?"
    r"(?:(?:please|kindly|now|next|then|first|finally|also|just|hi|hello|hey|okay|ok|"
    r"sure|dear \w+)\b,? ?"
    r"|(?:can|could|would|will) (?:you|u)(?: (?:please|kindly|maybe|possibly|also))?,? "
    r"|(?:i|we)(?: would|'d| do)? (?:want|need|like|love|ask|expect|request) you to "
    r"|i want to know (?=how|what|why|when|where|which|who)"
    r"|i (?:would like|want|need|wish) to |i'd like to |i am trying to "
    r"|i'm trying to |i'm looking to |i am looking to "
    r"|(?:your|the|my) (?:task|job|goal|aim|mission|role|assignment|objective) "
    r"(?:here )?is to |in this task,? ?"
    r"|you (?:will need to|should|must|need to|have to|will|are to|are asked to|"
    r"are supposed to) "
    r"|(?:do you know|i wonder|i was wondering|any idea) (?=how|what|why|when|where)"
    r"|(?:help|let) (?:me|us)(?: to)? (?=\w)|help (?=\w+ )|let's |try to "
    r"|be sure to |make sure to |feel free to |take (?:a moment|your time) to ))+"
)
_ASKING = frozenset("how what why when where which who whom whose".split())
_AUXILIARIES = frozenset(
    "do does did can could should would must will may might shall".split()
)
_BE = frozenset("is are was were am be been being".split())
_HAVE = frozenset("has have had".split())
_SUBJECTS = frozenset("i you we they one it he she people someone anyone this".split())
_INDIRECT = frozenset("me us him her them you it myself yourself everyone".split())
_DETERMINERS = frozenset(
    "a an the this that these those my your our their his its some any all every each "
    "no both either another other such several many much more most few fewer enough "
    "one two three four five six seven eight nine ten twelve twenty".split()
)
_QUANTITIES = frozenset("lot lots couple number variety bunch plenty pair".split())
_PARTICLES = frozenset("up out down off over away back together forth".split())
_PREPOSITIONS = frozenset(
    "about above across after against along among around as at before behind below "
    "beneath beside besides between beyond by concerning despite during except for "
    "from in inside into like near of on onto outside over per regarding since "
    "through throughout to toward towards under until up upon via with within without "
    "versus vs out off".split()
)
_CONJUNCTIONS = frozenset(
    "and or but nor so yet if because although though while whereas than that whether "
    "unless once".split()
)
# Verbs whose object follows a preposition.
_WITH_PREPOSITION = {
    "think": "of about",
    "talk": "about",
    "look": "for at",
    "search": "for",
    "come": "with",
    "get": "of",
    "care": "for",
    "deal": "with",
    "cope": "with",
    "listen": "to",
    "elaborate": "on",
    "reflect": "on",
    "dispose": "of",
    "comment": "on",
    "respond": "to",
    "reply": "to",
    "apply": "for",
    "prepare": "for",
    "recover": "from",
}
_DATIVE = frozenset("give tell teach show offer send ask bring lend".split())
_AFTERWARDS = frozenset(
    "today now here there straight again please too together well first soon later "
    "online step-by-step alone instead made called named used given written based "
    "found using including containing describing explaining involving following not "
    "also only ever never always often".split()
)
_NOUNS_IN_ING = frozenset(
    "building ceiling cooking drawing evening farming feeling gardening heading "
    "housing king learning lighting marketing meaning meeting morning painting "
    "parking planning pricing programming reading ring saying setting sewing shopping "
    "spelling spring string swimming thing training wedding wing writing".split()
)
_ADJECTIVES = frozenset(
    "bad basic busy noisy best better "
    "big brief catchy cheap clean clear clever concise cool "
    "creative deep detailed different difficult dirty dry easy effective fast formal "
    "free fresh friendly full fun funny good great happy hard healthy high important "
    "informal interesting key large light little local logical long low main "
    "memorable modern natural new nice old open persuasive polite popular positive "
    "possible practical professional quick quiet real recent rhyming rich safe scary "
    "shallow short similar simple slow small smart special specific strong sweet "
    "traditional true unique useful vivid warm witty young".split()
)
_PLURALS = {
    "children": "child",
    "people": "person",
    "men": "man",
    "women": "woman",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "leaves": "leaf",
    "lives": "life",
    "wives": "wife",
    "knives": "knife",
    "loaves": "loaf",
    "shelves": "shelf",
    "halves": "half",
    "wolves": "wolf",
    "criteria": "criterion",
    "phenomena": "phenomenon",
    "movies": "movie",
    "cookies": "cookie",
    "chillies": "chilli",
    "shoes": "shoe",
    "canoes": "canoe",
    "analyses": "analysis",
    "causes": "cause",
    "houses": "house",
    "horses": "horse",
    "nurses": "nurse",
    "courses": "course",
    "purposes": "purpose",
    "diseases": "disease",
    "phrases": "phrase",
    "exercises": "exercise",
    "expenses": "expense",
    "responses": "response",
    "databases": "database",
    "viruses": "virus",
    "buses": "bus",
    "caches": "cache",
    "headaches": "headache",
    "axes": "axe",
}
_SINGULAR = frozenset(
    "news series species means physics mathematics maths economics politics ethics "
    "diabetes lens gas bus clothes scissors trousers glasses canvas atlas tennis bias "
    "chess perhaps always lotus basics statistics christmas".split()
)
_ADVERBS = frozenset("very more most quite rather so best also really just".split())
_NOT_ADVERBS = frozenset(
    "apply supply reply family multiply assembly anomaly monopoly butterfly italy "
    "jelly belly comply imply rely daily weekly monthly friendly lovely elderly".split()
)
_COURTEOUS = frozenset(
    'please kindly then now next first finally also and so but okay ok , "'.split()
)
# Between the subject of a question and its verb.
_BETWEEN = frozenset("all both not best still even also".split())
# Verbs that are as often nouns: before another verb, they are the subject's end.
_NOUNS_TOO = frozenset(
    "answer call cause change charge control cook cost dance deal design draft dream "
    "dress drink end exercise experience fall farm feed field fight filter harvest "
    "hunt journal judge label light list map market measure milk mix move name note "
    "offer order pack paint park pass place plant plaster play plot post practice "
    "price process quote rate record rent report research rest return review run "
    "score search season share show sign sleep smell smoke state stitch stop store "
    "study supply talk taste test tour train transport travel treat update use visit "
    "walk water weed welcome wish work".split()
)
# Words of a question among which its verb stands.
_MAX_SUBJECT = 9
# After "what", words of an object that stands in front, and the auxiliary's place.
_MAX_FRONTED = 4
# A clause that opens so says when, how or what if, up to a comma.
_OPENERS = (
    _PREPOSITIONS
    | _CONJUNCTIONS
    | frozenset(
        "given when where using based considering assuming suppose i you we".split()
    )
)
_ASKED_OF = [["which"], ["what"], ["whom"], ["whose"]]
_STOPS = (
    _PREPOSITIONS
    | _CONJUNCTIONS
    | _ASKING
    | _AUXILIARIES
    | _BE
    | _HAVE
    | frozenset("to i you we they he she it me us him them there".split())
)
_NO_VERBS = (
    _STOPS
    | _DETERMINERS
    | frozenset("given not only even just such half twice what's how's".split())
)
_VERB_LIKE = re.compile(r"[a-z]+$(?<!ing)(?<!ed)(?<!s)")
_TIMES = frozenset("time moment hour day night week weekend month season year".split())
_TOKEN = re.compile(r"[^\W\d_][\w'-]*|\d[\w.,%]*|[,:;.?!()\"]")
# A colon or a blank comes after the request, before what it is about.
_CLAUSE = re.compile(r"(?<=[.?!;:])\s+|\s*\n\s*|\s+[–—]\s+")
_NEXT = re.compile(r", +| and (?=you\b)")
_MAX_CLAUSES, _MAX_COMMAS = 6, 8


def root(instruction: str) -> tuple[str, str]:
    """The root verb of an English instruction and the noun of its object, as lemmas.

    The first clause that asks for something decides. In "How do I clean a well?" it is
    ("clean", "well"); in "Which rice should I choose?" the object stands in front. A
    question without another verb than "be" or "have" has no root: what is asked for is
    then not said by a verb. -ise is written -ize.

    Args:
      instruction: English; any string does no harm.

    Returns:
      Lower case; ("", "") where there is no verb, and an empty noun where the verb has
      no object, or a clause for one ("Explain how …").
    """
    text = instruction.replace("’", "'").strip()
    for clause in _CLAUSE.split(text, maxsplit=_MAX_CLAUSES)[:_MAX_CLAUSES]:
        found = _of_clause(clause.lower())
        if found[0]:
            return found
    return "", ""


def count(instructions: Iterable[str]) -> Counter[tuple[str, str]]:
    """How often each (root verb, object noun) occurs."""
    return Counter(map(root, instructions))


def _of_clause(clause: str) -> tuple[str, str]:
    # "In 100 words, describe …": what comes before a comma says when, how or what if.
    for _ in range(_MAX_COMMAS):
        clause = clause.lstrip(" \"'(*-•#0123456789.)")
        if courtesy := _COURTESY.match(clause):
            clause = clause[courtesy.end() :]
        words = _TOKEN.findall(clause)
        found = _of_words(words)
        if found[0] or not words or words[0] not in _OPENERS:
            return found
        clause = (*_NEXT.split(clause, maxsplit=1), "")[1]
        if words[0] == "if" and clause and not _begins(clause):
            # The comma stood in a list: "If it rains, snows or hails, do …".
            clause = f"if {clause}"
    return "", ""


def _begins(clause: str) -> bool:
    """Whether a clause is more than the next item of a list."""
    first = clause.partition(" ")[0]
    return first in _VERBS | _ASKING | _AUXILIARIES | _COURTEOUS or bool(
        _COURTESY.match(clause)
    )


def _of_words(words: Sequence[str]) -> tuple[str, str]:
    while words and (words[0] in _COURTEOUS or _is_adverb(words[0])):
        words = words[1:]
    if not words:
        return "", ""
    first = words[0]
    if first == "do" and words[1:2] == ["not"]:
        return _of_words(words[2:])
    if first in _ASKING or (first in _PREPOSITIONS and words[1:2] in _ASKED_OF):
        return _of_question(words)
    if first in _AUXILIARIES and words[1:2] and words[1] not in _DETERMINERS:
        return _after_auxiliary(words, 0, "")
    return _of_imperative(words)


def _of_imperative(words: Sequence[str]) -> tuple[str, str]:
    first, rest = words[0], words[1:]
    following = rest[0] if rest else ""
    known = first in _VERBS or _american(first) in _VERBS
    if not known:
        # "Varnish the door": nothing but a verb stands so before a determiner.
        follows = following in _DETERMINERS or following in ("me", "us")
        if not follows or first in _NO_VERBS or not _VERB_LIKE.match(first):
            return "", ""
    if following == ":":
        return "", ""  # "Answer:" is where one belongs.
    if following == "of" and "of" not in _WITH_PREPOSITION.get(first, ""):
        return "", ""  # "List of rivers" is a noun.
    if following in _BE | _HAVE | _AUXILIARIES - {"do"} and first not in ("do", "let"):
        return "", ""  # "Water is …" as well.
    verb = _american(first)
    if following in ("and", "or", "&") and len(rest) > 2 and rest[1] in _VERBS:
        rest = rest[2:]  # Two verbs share their object; the first is the root.
    return verb, _object(verb, rest)


def _of_question(words: Sequence[str]) -> tuple[str, str]:
    asked = words[0]
    for number in range(3, len(words)):
        # ", and when should I …": the first of two questions decides.
        if words[number] in _ASKING and words[number - 1] in ("and", "or", ","):
            words = words[:number]
            break
    if words[1:2] == ["to"] and len(words) > 2:  # "How to clean a well"
        return _of_imperative(words[2:])
    at = next((n for n, word in enumerate(words) if word in _AUXILIARIES), None)
    causes = words[1] if asked in ("who", "what") and len(words) > 1 else ""
    # Not "What records should I keep?"
    if (at is None or at > _MAX_FRONTED) and (verb := _form(causes)):
        return verb, _object(verb, words[2:])  # "What causes …"
    be = next((n for n, word in enumerate(words) if word in _BE | _HAVE), None)
    if at is not None and (be is None or at < be):
        fronted = ""
        if at > 1 and asked in ("what", "which", "whose", "how"):
            fronted = _noun(words[1:at])
        return _after_auxiliary(words, at, fronted)
    if be is not None:
        # "How is rice cooked?": a participle after the subject.
        if asked in ("how", "why", "when", "where") and be == 1:
            return _participle(words[be + 1 :], skip=1), ""
        return "", ""
    # "Who wrote …", "What causes …", "Which countries grow …": the asked is subject.
    if asked in ("who", "what", "which"):
        # A noun follows, and may look like a verb.
        for number, word in enumerate(words[2:_MAX_SUBJECT], 2):
            verb = _finite(word)
            of, following = words[number - 1], "".join(words[number + 1 : number + 2])
            if verb and of != "of" and following not in _VERBS:
                return verb, _object(verb, words[number + 1 :])
    return "", ""


def _after_auxiliary(words: Sequence[str], at: int, fronted: str) -> tuple[str, str]:
    """The verb that an auxiliary belongs to, past the subject, and its object."""
    rest = list(words[at + 1 :])
    while rest and (rest[0] in ("not", "n't") or _is_adverb(rest[0])):
        rest = rest[1:]
    plain = bool(rest) and rest[0] in _SUBJECTS
    while rest and (rest[0] in _DETERMINERS or rest[0] == "of"):
        rest = rest[1:]
    # One word at least is the subject's, though it look like a verb.
    start = 0 if plain and rest and rest[0] not in _SUBJECTS else 1
    if plain:
        while start < len(rest) and (
            rest[start] in _BETWEEN or _is_adverb(rest[start])
        ):
            start += 1
        places = range(start, min(start + 1, len(rest)))
    else:
        places = range(start, len(rest))
    for place in places:
        word = rest[place]
        following = rest[place + 1] if place + 1 < len(rest) else ""
        if word == "have" and following == "to":
            return _after_auxiliary(
                [*words[:at], "do", "i", *rest[place + 2 :]], at, fronted
            )
        if not plain and word in _PREPOSITIONS:
            continue
        if not plain and word in _NOUNS_TOO and following in _VERBS | {"be"}:
            continue  # "How does a water filter work?"
        if word in ("be", "been"):
            return _participle(rest[place + 1 :], skip=0), ""
        verb = _american(word)
        if (
            verb in _VERBS
            or word == "have"
            or (plain and _VERB_LIKE.match(word) and word not in _NO_VERBS)
        ):
            after = rest[place + 1 :]
            if len(after) > 2 and after[0] in ("and", "or") and after[1] in _VERBS:
                after = after[2:]
            return verb, _object(verb, after) or fronted
        if word in ";:":
            break
    if not plain and 2 < len(rest) < 6 and rest[-1] == "?" and rest[-2].isalpha():
        return rest[-2], fronted  # "How do whales echolocate?"
    return "", ""


def _participle(words: Sequence[str], *, skip: int) -> str:
    """The lemma of the first known participle, before any clause or phrase ends."""
    for number, word in enumerate(words):
        if word in _PREPOSITIONS or word in ("to", ",", "that", "if", "when"):
            if number > skip:
                break
            continue
        verb = _forms().get(word, "")
        if number >= skip and verb and (word in _IRREGULAR or word.endswith("ed")):
            return verb
    return ""


def _finite(word: str) -> str:
    """The lemma of a form that may stand after its subject, or empty."""
    word = _american(word)
    return word if word in _VERBS else "" if word[-3:] == "ing" else _form(word)


def _object(verb: str, words: Sequence[str]) -> str:
    """The head of the noun phrase that a verb's object is, or empty."""
    words = list(words)
    while words and (words[0] in _PARTICLES or _is_adverb(words[0])):
        words = words[1:]
    if words and words[0] in _INDIRECT:
        words = words[1:]
        if words and words[0] in ("up", "out", "with"):
            words = words[1:]
    if words and words[0] in _WITH_PREPOSITION.get(verb, "").split():
        words = words[1:]
    if verb in _DATIVE:
        # "Give beginners some advice": after the receiver comes the object.
        for number, word in enumerate(words):
            if word in _STOPS or not word[0].isalpha():
                break
            if word in _DETERMINERS and _noun(words[:number]):
                return _noun(words[number:])
    return _noun(words)


def _noun(words: Sequence[str]) -> str:
    """The head of a noun phrase at the start of some words, as a lemma, or empty."""
    run: list[str] = []
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        if word in ('"', "(", ")"):
            if run and word != '"':
                break
            continue
        if not run:
            if word in ("each", "every", "this") and following in _TIMES:
                return ""  # "… need every night?"
            if word in _DETERMINERS or word[0].isdigit() or _is_adverb(word):
                continue
            named = number and words[number - 1] in _DETERMINERS
            ends = following in _STOPS or not following[:1].isalpha()
            if word in _AFTERWARDS and ends and not named:
                return ""  # "What should I do first when …"
            if word in _QUANTITIES and following == "of":
                continue
            if word == "of" and number and words[number - 1] != ",":
                continue  # "one of the reasons"
            if word in _STOPS or not word[0].isalpha():
                return ""
        elif word in (",", "and", "or"):
            # "a short, clear and friendly letter"
            if _is_adjective(run[-1]) and following not in _STOPS:
                continue
            break
        elif (
            word in _STOPS
            or (word in _AFTERWARDS and not _is_adjective(run[-1]))
            or word in _PARTICLES
            or word in _DETERMINERS
            or word in _INDIRECT
            or not word[0].isalpha()
            or _is_adverb(word)
            or (word.endswith("ing") and word not in _NOUNS_IN_ING)
        ):
            break
        if word.endswith("'s") or word.endswith("s'"):
            # A possessor is no head; with nothing after it, it is.
            if following and following[0].isalpha() and following not in _STOPS:
                continue
            word = word.removesuffix("'s").removesuffix("'")
        run.append(word)
    while len(run) > 1 and run[-1] in _ADJECTIVES:
        run.pop()  # "make water safe"
    return _singular(run[-1]) if run else ""


def _singular(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun in _SINGULAR or len(noun) < 4 or noun.endswith(("ss", "us", "is", "ics")):
        return noun
    if noun.endswith("ies"):
        return f"{noun[:-3]}y" if len(noun) > 4 else noun[:-1]
    if noun.endswith(("sses", "shes", "ches", "xes", "zzes", "toes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") else noun


def _american(verb: str) -> str:
    """A verb in -ise or -yse as -ize or -yze, where that is the verb we know."""
    if verb == "practise":
        return "practice"
    other = f"{verb[:-2]}ze" if verb.endswith(("ise", "yse")) else ""
    return other if other in _VERBS else verb


def _form(word: str) -> str:
    return _forms().get(word, "") or _forms().get(_american_form(word), "")


def _american_form(word: str) -> str:
    return re.sub(r"(?<=\w[iy])s(?=e[sd]$|ing$)", "z", word)


@functools.cache
def _forms() -> dict[str, str]:
    """The lemma of each form of a known verb but its base form."""
    forms = dict(_IRREGULAR)
    for verb in _VERBS:
        ends_in_y = verb.endswith("y") and verb[-2] not in "aeiou"
        if ends_in_y:
            made = [f"{verb[:-1]}ies", f"{verb[:-1]}ied"]
        elif verb.endswith("e"):
            made = [f"{verb}s", f"{verb}d"]
        elif verb.endswith(("s", "x", "ch", "sh", "zz")):
            made = [f"{verb}es", f"{verb}ed"]
        elif verb in _DOUBLED:
            made = [f"{verb}s", f"{verb}{verb[-1]}ed"]
        else:
            made = [f"{verb}s", f"{verb}ed"]
        for form in made:
            forms.setdefault(form, verb)
    return forms


def _is_adverb(word: str) -> bool:
    return word in _ADVERBS or (
        word.endswith("ly") and len(word) > 4 and word not in _NOT_ADVERBS
    )


def _is_adjective(word: str) -> bool:
    return word in _ADJECTIVES or word.endswith(
        ("ous", "ful", "able", "ible", "less", "ical", "ish", "ive", "ed", "est")
    )
