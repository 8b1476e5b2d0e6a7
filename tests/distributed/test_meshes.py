"""Editing, scoring and generation over eight simulated devices give what one gives."""

import pytest
from support import on_eight_devices

from onceedit_jax.distributed.mesh import parse_mesh
from onceedit_jax.errors import InputError

PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
from pathlib import Path

import numpy as np
from relation_cases import sharp_head
from support import byte_level_tokenizer, tiny_config

from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax import fusion, gates
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.distributed.mesh import make_mesh

RECORDS = [
    EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard?", "Sol Marrow", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby?", "the Ask", subject="Vinterby"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
SETTINGS = EditSettings(
    method="full", learning_rate=1e-3, epochs=4, batch_size=8, held_back=1, paraphrase_ratio=2
)
PROMPTS = [record.prompt for record in RECORDS]


def model(merges, heads, kv_heads, seed):
    tokenizer = byte_level_tokenizer(merges)
    config = tiny_config(len(tokenizer.vocabulary), num_heads=heads, num_kv_heads=kv_heads)
    params = init_params(config, jax.random.key(seed))
    name = f"tiny-{merges}"
    return LoadedModel(config, params, name, name, Path(name), {}), tokenizer


# Heads as SmolLM2 and Gemma-3 have them, which eight devices cannot share as they are.
plugin, plugin_tokenizer = model(40, 9, 3, 0)
target, target_tokenizer = model(90, 4, 1, 1)
head = sharp_head(plugin, plugin_tokenizer)


RULES = (
    (fusion.draft(), gates.both()),
    (fusion.context(draft=True), gates.fact()),
    (fusion.relative(allow_lossy=True), gates.token()),
)


def everything(mesh, rules):
    edited = edit(plugin, plugin_tokenizer, RECORDS, UNRELATED, SETTINGS, mesh=mesh, head=head)
    assert edited.verdicts(PROMPTS).edits.tolist() == [0, 1, 2]
    said = []
    for rule, gate in rules:
        ensemble = Ensemble(
            edited, [Target(target, target_tokenizer)], rule=rule, gate=gate, mesh=mesh,
            alpha_threshold=0.0,
        )
        scored = ensemble.score([Pair(r.prompt, r.target) for r in RECORDS])
        answers = ensemble.generate(PROMPTS, max_new_tokens=6)
        tokens = [text.after.tolist() for text in scored.targets[0]]
        said.append((tokens, answers.before, answers.after))
    return edited, said, edited.alphas(PROMPTS, gates.token())


one, said, alphas = everything(make_mesh({"data": 1}, jax.devices()[:1]), RULES)
assert len(jax.tree.leaves(one.params)[0].sharding.device_set) == 1
# Every program takes seconds to compile for eight devices: the meshes share out the rules.
for sizes, some in (({"tensor": 8}, slice(1)), ({"data": 2, "fsdp": 2, "tensor": 2}, slice(1, 3))):
    edited, found, weights = everything(make_mesh(sizes), RULES[some])
    assert found == said[some], (sizes, found, said)
    np.testing.assert_allclose(weights, alphas, atol=1e-4)
    for leaf, wanted in zip(jax.tree.leaves(edited.params), jax.tree.leaves(one.params)):
        assert len(leaf.sharding.device_set) == 8
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(leaf, wanted, atol=1e-4 * np.abs(wanted).max())
# From a mesh to a folder to no mesh at all.
import sys
again = EditedPlugin.load(edited.save(Path(sys.argv[1]) / "plugin"))
for leaf, wanted in zip(jax.tree.leaves(again.params), jax.tree.leaves(edited.params)):
    np.testing.assert_array_equal(leaf, wanted)
# And from there straight to another mesh, every device reading its own part.
again = EditedPlugin.load(Path(sys.argv[1]) / "plugin", mesh=make_mesh({"tensor": 8}))
for leaf, wanted in zip(jax.tree.leaves(again.params), jax.tree.leaves(edited.params)):
    assert len(leaf.sharding.device_set) == 8
    np.testing.assert_array_equal(leaf, wanted)
up = again.params["layers"]["mlp"]["up"]
assert up.addressable_shards[0].data.size == up.size // 8
print("equal")
"""


# The same in two adapters, which each row of a batch chooses between.
ADAPTED = (
    PROGRAM[: PROGRAM.index("def everything")]
    + """
import dataclasses

# In float32: sums of bfloat16 operands, each device its part, differ in more digits.
ADAPTER = dataclasses.replace(
    SETTINGS, method="adapter", learning_rate=1e-2, training_dtype="float32"
)


def everything(mesh):
    model = plugin, plugin_tokenizer
    first = edit(*model, RECORDS[:2], settings=ADAPTER, mesh=mesh, head=head)
    edited = edit(*model, RECORDS[2:], settings=ADAPTER, mesh=mesh, head=head, start=first)
    assert edited.verdicts(PROMPTS).edits.tolist() == [1, 2, 0]
    ensemble = Ensemble(edited, [Target(target, target_tokenizer)], mesh=mesh)
    scored = ensemble.score([Pair(r.prompt, r.target) for r in RECORDS])
    tokens = [text.after.tolist() for text in scored.targets[0]]
    return edited, (tokens, ensemble.answers(PROMPTS, max_new_tokens=6))


one, said = everything(make_mesh({"data": 1}, jax.devices()[:1]))
edited, found = everything(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
assert found == said, (found, said)
for leaf, wanted in zip(jax.tree.leaves(edited.adapters), jax.tree.leaves(one.adapters)):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(leaf, wanted, atol=2e-3 * np.abs(wanted).max())
print("equal")
"""
)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(PROGRAM, id="weights", marks=pytest.mark.long),
        pytest.param(ADAPTED, id="adapters"),
    ],
)
def test_eight_devices_edit_and_answer_as_one_does(program, tmp_path):
    on_eight_devices(program, str(tmp_path), prints="equal")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data", "not enough values"),
        ("data=two", "invalid literal"),
        ("model=1", "mesh axis 'model'"),
        ("data=1,data=1", "given twice"),
        ("data=1,tensor=64", "64 devices, there are"),
    ],
)
def test_a_mesh_that_is_none_is_told_with_an_example(text, told):
    with pytest.raises(InputError, match=f"--mesh {text}: .*{told}.*as in data=4,tensor=2"):
        parse_mesh(text)


def test_no_mesh_is_none():
    assert parse_mesh(None) is None
    assert parse_mesh("data=1").size == 1
