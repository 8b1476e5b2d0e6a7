"""A tiny plug-in with a relation head, and targets; a module may have others of its own."""

import pytest
from editing_cases import FAST, RECORDS, UNRELATED
from relation_cases import sharp_head

from onceedit_jax.editing.edit import edit
from onceedit_jax.ensemble import Target


@pytest.fixture(scope="module")
def plugin(tiny_model):
    """A plug-in whose relation head tells every two questions apart."""
    model, tokenizer = tiny_model()
    head = sharp_head(model, tokenizer)
    return edit(model, tokenizer, RECORDS, UNRELATED, FAST, head=head)


@pytest.fixture(scope="module")
def targets(tiny_model):
    """Two targets, with other tokenizers than the plug-in's and one another's."""
    return [Target(*tiny_model(80, 1)), Target(*tiny_model(20, 2))]
