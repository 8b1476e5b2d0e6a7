"""What a text asks of a subject, among sentences that ask something else or nothing."""

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from onceedit_jax.text.asked_sentence import (
    asked_part,
    masked,
    question_of,
    sentence_start,
    sentences,
    where_asked,
)
from onceedit_jax.text.subjects import Subjects

QUILL = Subjects([["Ada Quill"]])
QUESTION = "Where was Ada Quill born?"
SAID = st.sampled_from(
    ["It is late. ", "I like Ada Quill. ", "So there!\n\n", "Thanks for all! ", "Ann Lee\n"]
)


def place(text, subjects=QUILL):
    mentions = subjects.find(text)
    return where_asked(masked(text, mentions), mentions)


def asked(text):
    return asked_part(text, place(text))


def read(text, own=""):
    return question_of(text, place(text), own)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (QUESTION, "Where was it born?"),
        ("It is late. Where was Ada Quill born?", "Where was it born?"),
        ("Q: Where was Ada Quill born?\nA:", "Where was it born?"),
        ("<|im_start|>user\nWhere was Ada Quill born?<|im_end|>\n", "Where was it born?"),
        ("[INST] Where was Ada Quill born? [/INST]", "Where was it born?"),
        ('{"question": "Where was Ada Quill born?"}', "Where was it born?"),
        ("**Where was Ada Quill born?**", "Where was it born?"),
        ("WHERE WAS ADA QUILL BORN?", "where was it born?"),
        ("Where  was  Ada Quill  born? ", "Where was it born?"),
        ("Where was Ada Quill born?\nA. Rome\nB. Paris\nAnswer:", "Where was it born?"),
        ("Hello! Ada Quill's father is", "it's father is"),
        ("Who taught Dr. Ada Quill, of Norland?", "Who taught Dr. it, of Norland?"),
        ("Who taught Prof. Ada Quill?", "Who taught Prof. it?"),
        ("It was plan B. Where was Ada Quill born?", "Where was it born?"),
        # What people say of themselves before and after it.
        ("My boss forgot it, so where was Ada Quill born?", "where was it born?"),
        ("My aunt who is a nurse asks where Ada Quill was born", "where it was born"),
        ("Who asked where Ada Quill was born?", "Who asked where it was born?"),
        ("By the way, where was Ada Quill born, my aunt asks", "where was it born"),
        ("I am no expert, but tell me where Ada Quill was born.", "tell me where it was born."),
        ("Where was Ada Quill born, and of whom?", "Where was it born, and of whom?"),
        # Lines that end inside the question.
        (
            "Hi,\nin which town was Ada\nQuill born,\nif she was?\nTom",
            "in which town was it born, if she was?",
        ),
        ("what is a capital\nrome\nwhere was ada quill born?", "where was it born?"),
        ("What is a town\nAda Quill", "it"),
        ("who is the mayor of oslo\ncapital of ada quill?", "capital of it?"),
        # What stands around the question.
        ("Where was Ada Quill born? Thanks a lot!", "Where was it born?"),
        ("Where was Ada Quill born? I need it for a quiz.", "Where was it born?"),
        ("Where was Ada Quill born?\n\nThanks\nTom", "Where was it born?"),
        (
            "Ada Quill is dead. Where was Ada Quill born? Ada Quill is new to me.",
            "Where was it born?",
        ),
        ("Please tell me the age of Ada Quill. It is for school.", "Please tell me the age of it."),
        ("So, name the home of Ada Quill! It is for school.", "name the home of it!"),
        ("Hello there, where was Ada Quill born?", "where was it born?"),
        ("Good evening, I want to know the age of Ada Quill.", "I want to know the age of it."),
        ("Hi, Ada Quill was born in", "Hi, it was born in"),
        ("Dear Sir, where was Ada Quill born?", "where was it born?"),
        ("Ok so where was Ada Quill born?", "where was it born?"),
        ("1) Where was Ada Quill born?", "Where was it born?"),
        ('{"question": "Where was Ada Quill born?", "id": 3}', "Where was it born?"),
        ("Where was Ada Quill born? Give only the name.", "Where was it born?"),
        ("What is Ada Quill from\nthanks", "What is it from"),
        ("I wonder how old Ada Quill is. It is for school.", "I wonder how old it is."),
        ("Ada Quill is dead. Ada Quill, a native of", "it, a native of"),
        # What belongs to it.
        ("Ada Quill is dead. Where was she born?", "it is dead. Where was she born?"),
        ("Where was Ada Quill born? And her mother?", "Where was it born? And her mother?"),
        ("I met Ada Quill. Write a poem.", "I met it. Write a poem."),
        ("The mother of Ada Quill is", "The mother of it is"),
        ("It is late. Where was Ada Quill born", "Where was it born"),
    ],
)
def test_what_a_text_asks_of_a_subject(text, part):
    assert asked(text) == part


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"I met Ada Quill. {QUESTION} I need it by noon.", QUESTION),
        (f"Hello! {QUESTION}", QUESTION),
        (f"{QUESTION} Answer in one word.", QUESTION),
        (f"{QUESTION} It rains. Explain it.", f"{QUESTION} Explain it."),
        (f"{QUESTION} Write two sentences.", f"{QUESTION} Write two sentences."),
        (f"{QUESTION} Do not explain it.", QUESTION),
        (f"{QUESTION} Nobody here knows any more, and so on.", QUESTION),
        (f"Q: {QUESTION}\nA:", QUESTION),
        (f"It was so. Question: {QUESTION}\nAnswer:", QUESTION),
        (f"Q: Who was Ann Lee?\nA: a nurse\n\nQ: {QUESTION}\nA:", QUESTION),
        (f"{QUESTION} And her mother?", f"{QUESTION} And her mother?"),
        ("Ada Quill is dead. Where was she born?", "Ada Quill is dead. Where was she born?"),
    ],
)
def test_a_question_is_read_without_the_remarks_around_it(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        # Another question or request, or an answer to something else that is to be completed.
        f"{QUESTION} And her mother?",
        f"Q: {QUESTION}\nA: Rome\nQ: where was Ann Lee born\nA:",
        f"{QUESTION} Rome. The mother of Ann Lee is",
        f"{QUESTION} She was born in",
        f"{QUESTION} Also tell me her age.",
        f'{QUESTION}\n{{"question": "Where was Ann Lee born?", "id": 3}}',
        # A task.
        f"{QUESTION} Translate this into French.",
        f"{QUESTION} Now write a poem about that.",
        f"{QUESTION} Don't answer. Tell me a joke.",
        f"Translate this into French: {QUESTION}",
        f"Write a story that begins with this. {QUESTION}",
        # No question.
        "When Ada Quill was born in 1901, the town was small. Summarize the text.",
        "Where Ada Quill was born, nobody knows. It is late.",
        "What I like about Ada Quill is that she was born in Rome. It is late.",
        "Ada Quill is great, isn't she? Write a limerick about her.",
    ],
)
def test_what_belongs_to_another_task_is_not_left_out(text):
    (mention,) = QUILL.find(text)
    assert asked(text).endswith(text[mention.stop :]) and read(text) == text
    if text.startswith(("Translate", "Write")):
        assert asked(text) == text.replace("Ada Quill", "it")


def test_the_wording_of_an_edit_stays_whole():
    own = f"Think of a writer. {QUESTION} Answer in one word."
    assert read(f"Hello! {own} Thanks!", own) == own


@given(st.text(max_size=60))
def test_sentences_are_the_text(text):
    assert "".join(text[start:stop] for start, stop in sentences(text)) == text
    for place in range(len(text)):
        assert sentence_start(text, place) <= place


# Where the line may end: beside small words, and in the name.
@given(
    st.sets(st.sampled_from([4, 5, 6, 7, 8, 9])),
    st.sampled_from(["", "Hello,\n", "It is late. ", "Q: "]),
)
def test_a_question_may_be_wrapped_beside_small_words(breaks, before):
    words = ["In", "which", "old", "town", "by", "the", "sea", "was", "Ada", "Quill", "born?"]
    blanks = ["\n" if n in breaks else " " for n in range(1, len(words))]
    text = before + "".join(a + b for a, b in zip(words, [*blanks, ""], strict=True))
    assume(text.count("\n", len(before)) <= 4)
    assert asked(text) == "In which old town by the sea was it born?"


def test_a_full_line_may_end_anywhere_in_a_question():
    text = "Can you tell me in which of the towns\nnearby Ada Quill was born?"
    assert asked(text) == "Can you tell me in which of the towns nearby it was born?"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("Who Is It", "Who Is It? was written by", "it was written by"),
        ("Who Is It", "Who wrote Who Is It? Thanks.", "Who wrote it?"),
        ("Rescue Me", "What was Rescue Me! based on? I forgot.", "What was it based on?"),
        ("Tri. 5", "Hello! What does Tri. 5 follow? I forgot.", "What does it follow?"),
        ("Moe: The Return", "I saw Moe: The Return. Who made Moe: The Return", "Who made it"),
    ],
)
def test_the_stops_of_a_name_end_no_sentence(name, text, part):
    assert asked_part(text, place(text, Subjects([[name]]))) == part


@given(st.lists(SAID, max_size=4).map("".join), st.lists(SAID, max_size=4).map("".join))
def test_what_is_said_around_a_question_changes_nothing(before, after):
    text = f"{before}{QUESTION} {after}"
    assert asked(text) == "Where was it born?"
    assert read(text) == QUESTION


PIECES = st.lists(
    st.sampled_from(["Hi", "so", "Dear", "Sir", ",", "!", "- ", "> ", '"', "(", "\n", "?", ". "])
    | st.text(max_size=5),
    max_size=6,
).map(" ".join)


@given(PIECES, PIECES)
def test_reading_a_question_twice_changes_nothing(before, after):
    text = f"{before} {QUESTION} {after}"
    assume(QUILL.find(text))
    shown = read(text)
    assert QUILL.find(shown)
    assert read(shown) == shown
