"""The plug-in reads a subject under the name that its edit has taught it."""

import numpy as np
import pytest
from editing_cases import RECORDS
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax import fusion
from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.editing.relation_reading import as_written, subjects_of
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.ensemble.generation import answer
from onceedit_jax.ensemble.preparation import PreparedPlugin

OWN = RECORDS[0].prompt
WRITTEN = OWN.replace("Norland", "NORLAND")
TOWER = EditRecord("How tall is the Eiffel Tower?", "312 m", subject="the Eiffel Tower")
WHO = EditRecord("When did The Who begin?", "1970", subject="The Who")
TUVALU = EditRecord("Capital of Tuvalu", "Fangaua", subject="Tuvalu", aliases=("Ellice Islands",))
UNNAMED = EditRecord("what is the most common of birds", "the wren")
EVERY = [TOWER, WHO, TUVALU, UNNAMED]


@pytest.mark.parametrize(
    ("record", "text", "expected"),
    [
        (TOWER, "how tall is the eiffel tower", "how tall is the Eiffel Tower?"),
        (
            TOWER,
            "Hello. in which year was eiffel tower built",
            "in which year was Eiffel Tower built?",
        ),
        (TOWER, "The height of the eiffel tower is", "The height of the Eiffel Tower is"),
        (TOWER, "how tall is the eiffel tower \n", "how tall is the Eiffel Tower?"),
        (WHO, "the who began in", "The Who began in"),
        (TUVALU, "Are the Ellice Islands Tuvalu?", "Are the Ellice Islands Tuvalu?"),
        (TOWER, "EIFFEL TOWER, how tall?", "Eiffel Tower, how tall?"),
        (WHO, "so when did the who begin", "when did The Who begin?"),
        (TUVALU, "capital of ellice islands?", "capital of Tuvalu?"),
        (TUVALU, "tuvalu: what is tuvalu's capital", "what is Tuvalu's capital"),
        (TUVALU, "how tall is the eiffel tower", "how tall is the eiffel tower"),
        (UNNAMED, "Q: What is the most common of birds?", "what is the most common of birds?"),
    ],
)
def test_a_subject_is_called_as_its_edit_calls_it(record, text, expected):
    assert as_written(record, text, subjects_of(EVERY)) == expected


@settings(max_examples=50)
@given(st.sampled_from(EVERY), st.text(max_size=20), st.text(max_size=20))
def test_what_is_called_so_already_stays(record, before, after):
    subjects = subjects_of(EVERY)
    text = as_written(record, f"{before} {record.prompt} {after}", subjects)
    assert as_written(record, text, subjects) == text
    assert as_written(record, record.prompt, subjects) == record.prompt


def test_a_trusted_draft_is_that_of_the_edits_own_name(plugin, targets):
    ensemble = Ensemble(plugin, targets, rule=fusion.draft(trust=True))
    found = ensemble.generate([OWN, WRITTEN])
    assert found.edits.tolist() == [0, 0]
    for own, written in found.after:
        assert own == written == "Vinterby"


@pytest.mark.parametrize("rule", [fusion.draft(), fusion.vocabulary()])
def test_answers_and_scores_read_it(plugin, targets, rule, monkeypatch):
    read, as_read = [], PreparedPlugin.as_read

    def recorded(self, prompts, edits):
        read.append(as_read(self, prompts, edits))
        return read[-1]

    monkeypatch.setattr(PreparedPlugin, "as_read", recorded)
    ensemble = Ensemble(plugin, targets[:1], rule=rule)
    chat = [{"role": "user", "content": WRITTEN}]
    ensemble.answers([chat, WRITTEN], max_new_tokens=2)
    assert read == [[OWN, OWN]]
    ensemble.score([Pair(WRITTEN, "Vinterby")])
    assert read[1:] == [[OWN]]
    # Where nobody says which edit is meant, the text stays.
    given_alpha = np.ones(1, np.float32)
    answer(
        ensemble.prepared_plugin, ensemble.prepared, [WRITTEN], max_new_tokens=2, alphas=given_alpha
    )
    assert read[2:] == [[WRITTEN]]
