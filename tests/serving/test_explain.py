"""One prompt before and after the edits, and why they differ."""

import httpx2
import pytest
from serving.conftest import FIRST, NEW, TOKEN

from onceedit_jax import fusion
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.ensemble.hops import Hop
from onceedit_jax.serving import engine

OTHER = "How far is the harbour from the old bridge?"


def turn(text):
    return [{"role": "user", "content": text}]


def explained(web, prompt, **more):
    body = {"model": "target", "messages": turn(prompt)} | more
    return web.post("/v1/explain", json=body).raise_for_status().json()


def chat(web, prompt, model):
    body = {"model": model, "messages": turn(prompt)}
    (choice,) = web.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"]
    return choice


def test_both_answers_are_those_of_the_chat(web):
    for prompt in (FIRST[0].prompt, FIRST[2].prompt, OTHER):
        told = explained(web, prompt)
        before, after = (chat(web, prompt, name) for name in ("target:before", "target"))
        assert told["before"]["content"] == before["message"]["content"]
        assert told["after"]["content"] == after["message"]["content"]
        assert told["after"]["finish_reason"] == after["finish_reason"]
        assert told["onceedit"] == after["onceedit"]


def test_the_reasons_name_the_edit_and_the_rule(web):
    told = explained(web, FIRST[0].prompt)
    reasons = told["reasons"]
    assert told["after"]["content"] == "Vinter" != told["before"]["content"]
    assert (reasons["rule"], reasons["gate"], told["onceedit"]["edit"]) == ("draft", "fact", 1)
    (named,) = reasons["named"]
    assert (named["edit"], named["name"]) == (1, "Norland")
    assert named["likeness"] == pytest.approx(told["onceedit"]["alpha"], abs=1e-5)
    assert named["likeness"] >= reasons["threshold"] > 0 and reasons["hops"] == []


def test_where_no_edit_is_meant_the_target_answers_by_itself(web):
    told = explained(web, OTHER)
    assert told["before"] == told["after"] and told["onceedit"]["edit"] is None
    assert told["reasons"]["rule"] is None and told["reasons"]["named"] == []


def test_a_hop_is_told_and_the_edit_of_what_it_leaves(web, monkeypatch):
    hop = Hop("the capital of Norland", 0, 0.9, FIRST[1].prompt)
    monkeypatch.setattr(engine, "follow", lambda plugin, prompts: [[hop] for _ in prompts])
    told = explained(web, "What is the river of the capital of Norland?")
    shown = {"phrase": hop.phrase, "edit": 1, "likeness": 0.9, "text": hop.text}
    assert told["reasons"]["hops"] == [shown]
    assert [named["edit"] for named in told["reasons"]["named"]] == [2]
    assert told["onceedit"]["edit"] == 2 and told["after"]["content"] == "Ask"


def test_the_rule_is_the_targets(serving, artifact):
    with (
        serving(artifact, rule=fusion.context()) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        assert explained(web, FIRST[0].prompt)["reasons"]["rule"] == "context"


def test_what_asks_for_more_than_the_fact_is_answered_by_the_target_that_reads_it(
    web, serving, artifact, monkeypatch
):
    with (
        serving(artifact, rule=fusion.context()) as server,
        httpx2.Client(base_url=server.url, timeout=60) as other,
    ):
        told = explained(other, FIRST[0].prompt)
    assert told["reasons"]["beyond"] is False
    monkeypatch.setattr(engine, "asks_beyond", lambda plugin, rules, prompts, edits: edits >= 0)
    found = explained(web, FIRST[0].prompt)
    assert found["reasons"]["beyond"] is True and found["onceedit"]["edit"] == 1
    assert found["after"] == told["after"] != explained(web, OTHER)["after"]


def test_requests_are_bounded_as_others_are(web, serving, artifact):
    def refused(**body):
        return web.post("/v1/explain", json={"model": "target", "messages": turn("Who?")} | body)

    for body, status in (
        ({"model": "target:before"}, 400),
        ({"model": "none"}, 404),
        ({"messages": []}, 400),
        ({"max_tokens": 1000}, 400),
        ({"temperature": 1}, 400),
        ({"messages": turn("")}, 400),
    ):
        answer = refused(**body)
        assert answer.status_code == status and answer.json()["error"]["message"]
    with (
        serving(artifact, waiting=1) as server,
        httpx2.Client(base_url=server.url, timeout=60) as other,
    ):
        body = {"model": "target", "messages": turn("Who?")}
        assert other.post("/v1/explain", json=body).status_code == 429  # two prompts


def test_when_all_edits_were_taken_back(serving, copied):
    revert_edits(copied, [1, 2, 3])
    with (
        serving(copied, token=TOKEN) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        told = explained(web, NEW.prompt)
        assert told["before"] == told["after"] and told["reasons"]["named"] == []
        assert web.get("/health").json()["writes"] is True
