"""Servers of other rules and of several targets."""

import json

import httpx2
import pytest
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


@pytest.mark.parametrize("kind", ["off", "requests", "texts"])
def test_requests_are_logged_and_texts_only_where_asked_for(serving, artifact, capfd, kind):
    body = {"model": "target", "messages": [{"role": "user", "content": FIRST[0].prompt}]}
    with (
        serving(artifact, log=kind) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        web.post("/v1/chat/completions", json=body)
        web.get("/v1/edits/99")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    if kind == "off":
        assert not lines
        return
    asked, edit = lines
    assert (asked["path"], asked["status"], asked["model"]) == (
        "/v1/chat/completions",
        200,
        "target",
    )
    assert asked["edits"] == [1] and asked["prompt_tokens"] > 5 and asked["client"] == "127.0.0.1"
    assert (edit["path"], edit["status"]) == ("/v1/edits/{edit:int}", 404)
    assert (FIRST[0].prompt in json.dumps(asked)) == (kind == "texts")
