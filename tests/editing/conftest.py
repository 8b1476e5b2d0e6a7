"""A tiny model in a folder of its own, and its relation head."""

import pytest
from relation_cases import sharp_head

from onceedit_jax.models.export import export_hf
from onceedit_jax.models.weights import load_model


@pytest.fixture(scope="session")
def base(tiny_model, tmp_path_factory):
    """A model that an artifact can name, with its tokenizer."""
    model, tokenizer = tiny_model(200)
    folder = tmp_path_factory.mktemp("base") / "tiny"
    folder.mkdir()
    export_hf(folder, model.params, model.config, model.hf_config)
    tokenizer.save(folder)
    return load_model(folder, num_tokens=len(tokenizer.vocabulary)), tokenizer


@pytest.fixture(scope="session")
def head(base):
    return sharp_head(*base)
