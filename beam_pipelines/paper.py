"""What was published of the paper's own data, to stand beside ours.

Li et al., X-Instruction (ACL Findings 2024), 320,000 instructions in ten languages. The
lengths are those of the data set's ten files on the Hugging Face hub; the verbs are
measured from the angles of the chart in the repository ZNLP/X-Instruction at 98abc93,
`assets/stat.png`, to a tenth of a per cent.
"""

# Characters of instruction and of output: mean and standard deviation, by language.
LENGTHS = {
    "fi": ((101, 81), (1027, 553)),
    "id": ((101, 86), (1009, 542)),
    "th": ((102, 85), (988, 545)),
    "tr": ((104, 88), (1058, 534)),
    "vi": ((101, 86), (1120, 561)),
    "bn": ((112, 87), (1243, 519)),
    "hi": ((97, 80), (1285, 506)),
    "sw": ((100, 85), (1211, 524)),
    "ta": ((99, 85), (1259, 498)),
    "ur": ((108, 87), (1247, 509)),
}
# In per cent of what the chart's 16 verbs have, not of all instructions.
VERB_SHARES = {
    "write": 41.03,
    "summarize": 8.79,
    "give": 7.81,
    "translate": 7.01,
    "explain": 5.25,
    "create": 5.24,
    "find": 5.18,
    "provide": 4.4,
    "generate": 4.29,
    "tell": 4.12,
    "make": 2.0,
    "describe": 1.26,
    "list": 0.96,
    "announce": 0.6,
    "buy": 0.44,
    "be": 0.4,
}
# The four objects that the chart draws of each verb, the commonest first.
NOUNS = {
    "write": ("news", "article", "headline", "script"),
    "summarize": ("news", "article", "speech", "statement"),
    "give": ("summary", "news", "list", "report"),
    "translate": ("news", "speech", "article", "statement"),
    "explain": ("difference", "meaning", "verse", "hadith"),
    "create": ("news", "word", "article", "tweet"),
    "find": ("news", "article", "link", "video"),
    "provide": ("summary", "list", "news", "link"),
    "generate": ("news", "headline", "speech", "list"),
    "tell": ("story", "joke", "news", "name"),
    "make": ("news", "joke", "list", "announcement"),
    "describe": ("news", "match", "football", "process"),
    "list": ("benefit", "country", "news", "way"),
    "announce": ("result", "date"),
    "buy": ("product",),
    "be": ("news", "year"),
}
# Only those of the widest verb were measured, in the same per cent.
WRITE_SHARES = {"news": 13.6, "article": 10.5, "headline": 9.0, "script": 8.0}
