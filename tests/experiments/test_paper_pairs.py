"""The paper's pairs run by one command: tiny random models of their families, real tokenizers."""

import json
import re
import shutil

import jax
import pytest
import yaml
from support import ROOT

from experiments.framework.results import RESULTS
from experiments.framework.runner import run_experiment
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.parameters import init_params

PAIRS = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
GPTJ = {
    "model_type": "gptj",
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_inner": 32,
    "n_positions": 512,
    "rotary_dim": 4,
    "tie_word_embeddings": False,
}
# Of a hub id: the tokenizer's folder, rows of its embedding, and its architecture in small.
KINDS = {
    "TinyLlama/|meta-llama/Llama-2": ("llama2-32000", 32_000, LLAMA),
    "mistralai/": ("mistral-7b-v0.1", 32_000, {**LLAMA, "model_type": "mistral"}),
    "EleutherAI/gpt-j": ("gpt-j-6b", 50_400, GPTJ),
    "meta-llama/Meta-Llama-3": ("llama-3", 128_256, LLAMA),
    "Qwen/": ("qwen2.5", 151_936, {**LLAMA, "model_type": "qwen2"}),
}


def tiny(folder, tokenizer, rows, hf):
    """A checkpoint as the hub has it, of random weights."""
    shutil.copytree(tokenizer, folder)
    hf = {**hf, "vocab_size": rows}
    config = config_from_hf(hf)
    export_hf(folder, init_params(config, jax.random.key(0)), config, hf)
    return str(folder)


def test_there_is_a_configuration_for_every_pair():
    named = {
        (values["plugin"], *values["targets"])
        for values in (yaml.safe_load(path.read_text()) for path in PAIRS)
    }
    assert len(named) == len(PAIRS) == 2 * 7
    for model in (name for pair in named for name in pair):
        assert [kind for kind in KINDS if re.match(kind, model)], model


@pytest.mark.long
def test_every_pair_runs(shared, tmp_path):
    """Every configuration as it is, but for the weights, the size, and one data set and rule.

    One whose plug-in and whose target have run in others is left out: each takes ten seconds.
    """
    models, plugins, targets = {}, set(), set()
    for path in PAIRS:
        values = yaml.safe_load(path.read_text())
        for name in (values["plugin"], *values["targets"]):
            kind = next(k for k in KINDS if re.match(k, name))
            if kind not in models:
                tokenizer, rows, hf = KINDS[kind]
                folder = tmp_path / "models" / tokenizer
                models[kind] = tiny(folder, shared / "tokenizers" / tokenizer, rows, hf)
            values = yaml.safe_load(yaml.safe_dump(values).replace(name, models[kind]))
        values |= {
            "limit": 2,
            "datasets": ["zsre"],
            "rules": ["draft"],
            "editing": {"epochs": 1, "paraphrase_ratio": 0},
        }
        (target,) = values["targets"]
        if values["plugin"] in plugins and target in targets:
            continue
        plugins.add(values["plugin"])
        targets.add(target)
        changed = tmp_path / path.name
        changed.write_text(yaml.safe_dump(values))
        place = run_experiment(
            "paper",
            data=shared / "data",
            out=tmp_path / "results",
            work=tmp_path / "work",
            setup_file=changed,
        )
        assert place.name == f"paper-{path.stem}"
        found = json.loads((place / RESULTS).read_text())["cells"]["zsre, draft"]["result"]
        assert [score["records"] for score in found["scores"]] == [2]
    assert (len(plugins), len(targets)) == (2, len(KINDS))
    # Two plug-ins were edited, each once for all its targets.
    assert len(list((tmp_path / "work" / "plugins").glob("*/edit.json"))) == 2
