"""Servers of other rules and of several targets."""

import httpx2
from serving.conftest import FIRST

from onceedit_jax import fusion
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import Ensemble, load_target
from onceedit_jax.serving.edits import warm


def test_the_rule_context_and_several_targets(serving, artifact, models):
    rule, names = fusion.context(), ("target", "plugin")
    prompts = [record.prompt for record in FIRST]
    targets = [load_target(models[0] / name) for name in names]
    ensemble = Ensemble(EditedPlugin.load(artifact), targets, rule=rule, hops=1)
    expected = ensemble.answers(prompts, max_new_tokens=12)
    with (
        serving(artifact, targets=names, rule=rule, hops=1) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        for name, answers in zip(names, expected, strict=True):
            for prompt, answer in zip(prompts, answers, strict=True):
                body = {"model": name, "messages": [{"role": "user", "content": prompt}]}
                (choice,) = web.post("/v1/chat/completions", json=body).json()["choices"]
                assert choice["message"]["content"].strip() == answer
                assert choice["onceedit"]["edit"] == prompts.index(prompt) + 1
        for target in server.service.worker._engines.values():
            warm(server.service.keeper.edits, target.target)
            target.warm()
