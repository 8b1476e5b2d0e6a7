"""Questions for yes or no are told by their form."""

import pytest

from onceedit_jax.text.questions import answered_by_reasons, answered_by_yes_or_no
from onceedit_jax.text.subjects import Subjects

SUBJECTS = Subjects([["Norland"], ["Will Marrow"], ["The Glass Orchard"]])


def is_yes_or_no(text):
    (mention,) = SUBJECTS.find(text)
    return answered_by_yes_or_no(text, mention)


@pytest.mark.parametrize(
    "text",
    [
        "Is Vinterby the capital of Norland?",
        "is vinterby the capital of norland",
        "Isn't Vinterby the capital of Norland?",
        "Is it true that the capital of Norland is not Vinterby?",
        "Hello. Is it true that Vinterby is the capital of Norland?",
        "Hey, so is Vinterby the capital of Norland?",
        "Was Will Marrow born in Vinterby?",
        "Did Ada Quill write The Glass Orchard?",
        "Tell me whether Vinterby is the capital of Norland.",
        "Can you tell me if Vinterby is the capital of Norland?",
        "Do you think Vinterby is the capital of Norland?",
        "Are you sure that Vinterby is the capital of Norland?",
        "Did you know that Vinterby is the capital of Norland?",
        "Will there be a king in Norland?",
        "Can Norland be reached by train?",
    ],
)
def test_they_begin_with_a_verb_or_say_whether(text):
    assert is_yes_or_no(text)


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of Norland?",
        "Can you tell me what the capital of Norland is?",
        "Could I ask what the capital of Norland is?",
        "Do you know the capital of Norland?",
        "Don't you know the capital of Norland?",
        "Does anybody know the capital of Norland?",
        "Is that so? What is the capital of Norland?",
        "Would it be possible to tell me the capital of Norland?",
        "Do tell me the capital of Norland.",
        "Was ist die Hauptstadt von Norland?",
        "If I may ask: what is the capital of Norland?",
        "Will Marrow was born in which town?",
        "In which town was Will Marrow born?",
        "Norland has which capital?",
        "The capital of Norland is",
        "Norland is it?",
    ],
)
def test_others_do_not(text):
    assert not is_yes_or_no(text)


@pytest.mark.parametrize(
    "text",
    [
        "Why is it Norland?",
        "So how come Norland won? I ask you.",
        "Can you tell me why Norland was chosen?",
        "What is the reason that Norland won?",
    ],
)
def test_reasons_are_asked_for(text):
    assert answered_by_reasons(text, SUBJECTS.find(text)[0])


@pytest.mark.parametrize(
    "text",
    [
        "How did Norland come to be?",
        "Why not? Who rules Norland?",
        "Why don't you tell me who rules Norland?",
        "Who rules Norland, and why?",
    ],
)
def test_other_questions_want_no_reasons(text):
    assert not answered_by_reasons(text, SUBJECTS.find(text)[0])
