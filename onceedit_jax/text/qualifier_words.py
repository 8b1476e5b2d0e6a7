"""The words and patterns that `qualifiers` looks for: a table for each kind, in English.

Patterns are searched for in the clause that asks, with the subject's name masked as `xxxx`.
"""

import re

ANOTHER_TIME = "another time"

# Which of several is meant, by the word that stands for all that mean the same.
ORDER = {
    "previous": "former|outgoing|penultimate|preceding|previous|prior",
    "first": "1st|earliest|first|initial",
    "next": "future|incoming|next|upcoming",
    "last": "final|last",
    "other": "another|else|other|others",
    "deputy": "acting|deputy|interim|vice",
}
_ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = {word: n for n, word in enumerate(_ORDINALS.split(), 2)}

# Who or what stands beside a subject, by what it is to it.
BESIDE = {
    "spouse": "boyfriend|girlfriend|husband|partner|spouse|widow|widower|wife",
    "parent": "dad|father|mom|mother|mum|parents",
    "child": "child|children|daughter|daughters|heir|kid|kids|son|sons",
    "sibling": "brother|brothers|sibling|siblings|sister|sisters",
    "relative": "aunt|cousin|granddaughter|grandfather|grandmother|grandson|nephew|niece|uncle",
    "leader": "bishop|boss|captain|ceo|coach|conductor|king|leader|manager|mayor|minister"
    "|president|queen",
    "maker": "architect|author|builder|composer|creator|designer|director|engineer|founder|founders"
    "|inventor|painter|restorer|sculptor|writer",
    "holder": "agency|caretaker|owner|predecessor|spin-off|subsidiary|successor",
    "friend": "assistant|colleague|competitor|counterpart|enemy|friend|friends|mentor|neighbor"
    "|neighbour|opponent|rival|secretary|servant|servants|student|teacher",
}

# Other words by which a question mentions a qualifier.
_ALSO = {
    "previous": "before|formerly|old|once|previously|used",
    "first": "began|birthplace|born|created|creation|debut|given|inaugural|maiden|origin|original"
    "|originally|originate|originated|premiere|premiered",
    "next": "date|expire|expires|follow|followed|follows|release|released|scheduled|successor|when"
    "|will",
    "last": "ending|latest|newest|recent",
    "other": "alias|also|alternative|different",
    ANOTHER_TIME: "after|ago|before|date|during|follow|followed|follows|former|formerly|historical"
    "|later|old|once|past|precede|preceded|precedes|predecessor|previous|previously|successor|used"
    "|when",
    "not": "different|never|not|opposite|t",
    "near": "adjacent|beside|border|bordering|borders|close|closest|near|nearby|nearest|neighbor"
    "|neighboring|neighbors|neighbour|neighbouring|neighbours|next",
    "spouse": "marriage|married|marry",
    "leader": "chair|chairman|chairperson|chaired|chairs|commanded|executive|governor|head|headed"
    "|heads|lead|leads|led|manages|rector|ruled|ruler|rules|runs",
    "maker": "built|by|composed|created|designed|developed|developer|directed|established|founded"
    "|invented|made|manufactured|manufacturer|manufactures|painted|produced|producer|produces"
    "|published|publisher|publishes|wrote|written",
    "holder": "belong|belonged|belongs|held|holds|maintained|operator|organization|owned|owns"
    "|replaced|succeeded",
}  # fmt: skip
KINDS = (*ORDER, ANOTHER_TIME, "not", "near", *BESIDE)
MENTIONS = {
    kind: frozenset("|".join(words.get(kind, kind) for words in (ORDER, BESIDE, _ALSO)).split("|"))
    for kind in KINDS
}

# What one of several is asked for: "Who was the first mayor?", but not "Where was the play first
# performed?", "the First World War" and "the first to go".
_ASKED = (
    r"(?:(?:^\W*|\b(?:about|are|be|became|been|give|is|know|list|me|name|of|was|were"
    r"|wh(?:at|o)['\u2019]?s)\s+)(?:an?|her|his|its|the|their|\w+['\u2019]s?)\s+(?:very\s+)?"
    r"|\b(?:all|any|list|name)\s+|\b(?:what|where|which|who|whom)\s+(?=(?:else|other|second)\b))"
    r"(?!(?-i:[A-Z]\w*\s+[A-Z][a-z]))"
)
# Not of one who has the subject's own name: "the former president Ada Quill", "the third president,
# Ada Quill".
_NOT_ITSELF = (
    r"(?!\s+(?:\w+\s+){0,2}(?!(?i:at|by|did|does|for|from|had|has|in|is|of|that|to|was|where|which"
    r"|who|whose|with)\b)\w+,?\s+x{2,}\b)"
)
_NO_THING = (
    r"(?!\s+(?:aid|class|hand|language|lady|names?|resting|tongue|years?|(?:\w+\s+)?to)\b"
    r"|\s+(?:party|place|time(?! period))\b(?!\s+of\b))"
)
_OF_SEVERAL = [
    (
        kind,
        rf"(?i:{_ASKED}(?:{forms})\b){_NOT_ITSELF}"
        + (_NO_THING if kind in ("first", "last", "other") else ""),
    )
    for kind, forms in ORDER.items()
]
_ELSEWHERE = [
    ("previous", r"(?i)\bex-\w"),
    (
        "first",
        r"(?i)\b(?:at first|initially)\b|\boriginally (?:based|belong|called|held|housed|located"
        r"|named|own|owned|part|planned|play|used)\b",
    ),
    (
        "next",
        r"(?i)\bwill\b(?! you\b)|\b(?:are|is|was|were) (?:\w+ )?going to\b|-elect\b|\bnext\W*\Z",
    ),
    ("other", r"(?i)\b(?:apart from|besides|except|other than) (?!(?:it|that|this)\b)"),
    (
        "other",
        r"(?i)\b(?:did|do|does|had|has|is|of|was)\b[^,]{0,200}\bthe \w+ (?:that|which|who)"
        r" (?:came (?:after|before)|follow(?:ed|s)|preceded|replaced|succeeded)\b",
    ),
    (
        "not",
        r"(?i)\bwh(?:at|ere|ich|o|om)\b[^,(]{0,200}\b(?:are|did|do|does|had|has|have|is|was|were)"
        r"(?:n['\u2019]t|(?:\s+\w+){0,5}\s+(?:never|no longer|not|rarely|seldom))\b",
    ),
    (
        "near",
        r"(?i)(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\blies )\b(?:adjacent to|close(?:st)? to"
        r"|in front of|near(?:est)?(?: to)?|next(?: door)? to|opposite"
        r"|(?:east|north|south|west) of)\s+(?:the\s+)?x{2,}\b",
    ),
    (
        ANOTHER_TIME,
        r"(?i)\b(?:centur(?:ies|y)|decades?|months?|weeks?|years?) ago\b"
        r"|(?<!\bthe )(?<!['\u2019]s )\blast (?:century|decade|month|week|year)\b"
        r"|(?<!\bare )(?<!\bis )(?<!\bwas )\bused to (?:be|have|live|own|play|run)\b"
        r"|\b(?:at (?:that|the) time(?! of\b)|back then|in the (?:future|past)|in those days)\b"
        r"|\b(?:formerly|previously)\b|\bin later times\b|\blater(?: on)?\W*\Z"
        r"|(?<!\bcalled )(?<!\bnamed )(?<!\blook )(?<!\blooks )(?<!\blooked )(?<!\bweek )"
        r"(?<!\byear )\b(?:after|before)\b(?! all\b| going\b)(?! (?:the )?x{2,}\b)",
    ),
]
PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in (*_OF_SEVERAL, *_ELSEWHERE)]
ORDINAL = re.compile(
    rf"(?i:{_ASKED}({'|'.join(ORDINALS)}|\d{{1,3}}(?:st|nd|rd|th))\b){_NOT_ITSELF}{_NO_THING}"
)

_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
YEAR = re.compile(
    r"(?i)\b(?:after|around|before|between|by|during|from|in|(?<!as )of|on|since|till|until)\s+"
    rf"(?:the\s+|year\s+|early\s+|late\s+|mid[\s-]|\d{{1,2}}\s+|(?:{_MONTH})\s+(?:\d{{1,2}},\s+)?)*"
    r"((?:1\d|20)\d\d)s?\b"
)
CENTURY = re.compile(r"(?i)\b(\d\d?)(?:st|nd|rd|th)[\s-]century\b")
DURING = re.compile(r"(?i)\bduring\b(?! (?:what|which)\b)")
# An answer of today may be asked for with a year, but not in these tenses.
NOT_NOW = re.compile(r"(?i)(?<!\bi )(?<!\bwe )\b(?:did|had|was|were|will|would)\b(?! you\b)")
NOW = re.compile(r"(?i)\b(?:are|does|do|has|have|is)\b|['\u2019]s\b")
# What happens once: the year says when, and asks for nothing else.
EVENT = re.compile(
    r"(?i)\b(?:born|built|bought|composed|created|designed|die|died|directed|elected|established"
    r"|found|founded|happen|happened|held|invented|killed|made|married|opened|painted|performed"
    r"|published|recorded|released|win|won|write|written|wrote)\b"
)
# What people say of themselves before a question.
ASIDE = re.compile(r"(?i)\b(?:i|me|my|our|sorry|us|we)\b")
ASKS = re.compile(r"(?i)\b(?:how|what|when|where|which|who|whom|whose)\b")
