"""Edits that come and go while clients ask: none lost, none mixed."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from serving.conftest import FIRST, NEW, TOKEN, fact, posted

from onceedit_jax.editing.artifact_info import read_info
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.upkeep import add_edits
from onceedit_jax.serving import keeper as keeper_module

SECRET = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def changing(serving, copied):
    """A server whose edits may change, and a client of it."""
    with (
        serving(copied) as server,
        httpx2.Client(base_url=server.url, timeout=60, headers=SECRET) as web,
    ):
        yield server, web, copied


def ended(web, response):
    """The job of a response when it has ended."""
    assert response.status_code == 202, response.text
    name = response.json()["id"]
    for _ in range(600):
        job = web.get(f"/v1/edits/jobs/{name}").json()
        if job["status"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def answer(web, prompt=FIRST[0].prompt, **more):
    body = {"model": "target", "messages": [{"role": "user", "content": prompt}]} | more
    choice = web.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
    return choice["message"]["content"], choice["onceedit"]["edit"]


def test_a_fact_comes_and_goes(changing):
    _, web, folder = changing
    assert answer(web) == ("Vinter", 1)
    job = ended(web, web.post("/v1/edits", json=posted(NEW)))
    assert (job["error"], job["edits"], job["superseded"]) == (None, [4], [1])
    assert answer(web) == ("Oskar", 4)
    listed = web.get("/v1/edits", params={"all": True, "about": "norland"}).json()
    assert [(edit["id"], edit["state"]) for edit in listed["data"]] == [
        (1, "superseded"), (4, "live"),
    ]  # fmt: skip
    assert web.get("/v1/edits/1").json()["superseded_by"] == 4
    assert ended(web, web.delete("/v1/edits/4"))["status"] == "done"
    assert answer(web) == ("Vinter", 1)
    assert ended(web, web.post("/v1/edits/revert", json={"ids": [1, 2]}))["status"] == "done"
    assert answer(web)[1] is None
    assert [edit["id"] for edit in web.get("/v1/edits").json()["data"]] == [3]
    assert web.get("/v1/edits").json()["revision"] == 4 == len(read_info(folder).operations)
    assert [job["kind"] for job in web.get("/v1/edits/jobs").json()["data"]] == [
        "add", "revert", "revert",
    ]  # fmt: skip
    assert 'onceedit_edits{state="live"} 1.0' in web.get("/metrics").text


def test_what_is_known_and_what_contradicts_itself(changing):
    _, web, folder = changing
    before = read_info(folder)
    job = ended(web, web.post("/v1/edits", json=posted(FIRST[1])))
    assert (job["status"], job["known"], job["edits"]) == ("done", 1, [])
    job = ended(web, web.post("/v1/edits", json=posted(NEW, fact("Norland", "Ask"))))
    assert job["status"] == "failed" and "contradict each other" in job["error"]
    assert read_info(folder) == before and answer(web) == ("Vinter", 1)
    assert not folder.with_name(".plugin.jobs").exists()


def test_only_who_knows_the_token_writes(changing):
    server, web, folder = changing
    for headers, status in (
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer é".encode("latin-1")}, 401),
    ):
        with httpx2.Client(base_url=server.url, headers=headers) as stranger:
            for refused in (
                stranger.post("/v1/edits", json=posted(NEW)),
                stranger.post("/v1/edits/revert", json={"ids": [1]}),
                stranger.delete("/v1/edits/1"),
            ):
                assert refused.status_code == status
                assert refused.json()["error"]["type"] == "authentication_error"
    assert web.delete("/v1/edits/99").status_code == 404
    assert ended(web, web.delete("/v1/edits/1"))["status"] == "done"
    assert web.delete("/v1/edits/1").status_code == 409
    assert len(read_info(folder).operations) == 2


def test_without_a_token_nobody_writes(serving, artifact):
    with serving(artifact, token=None) as server:
        refused = httpx2.delete(f"{server.url}/v1/edits/1", headers=SECRET)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "writing_is_off"


def test_changes_by_another_program_are_followed(changing, models):
    _, web, folder = changing
    add_edits(folder, [NEW], head=models[3])
    for expected in (("Oskar", 4), ("Vinter", 1)):
        for _ in range(200):
            if answer(web) == expected:
                break
            time.sleep(0.05)
        assert answer(web) == expected
        if expected[1] == 4:
            revert_edits(folder, [4])


def test_answers_go_on_while_the_folder_cannot_be_read(changing):
    _, web, folder = changing
    whole = (folder / "edit.json").read_bytes()
    (folder / "edit.json").write_text("{")
    for _ in range(200):
        if problem := web.get("/health").json()["problem"]:
            break
        time.sleep(0.05)
    assert "could not be read again" in problem
    assert answer(web) == ("Vinter", 1)
    (folder / "edit.json").write_bytes(whole)
    for _ in range(200):
        if web.get("/health").json()["problem"] is None:
            break
        time.sleep(0.05)
    assert web.get("/health").json()["problem"] is None
    assert ended(web, web.post("/v1/edits", json=posted(NEW)))["status"] == "done"


def test_an_answer_ends_with_the_edits_that_it_began_with(changing, monkeypatch):
    """The gate has been asked, and the edits change before the first token."""
    server, web, _ = changing
    engine = server.service.worker._engines["target"]
    first, held, go_on = engine._first, threading.Event(), threading.Event()

    def slowly(rows):
        held.set()
        assert go_on.wait(60)
        return first(rows)

    monkeypatch.setattr(engine, "_first", slowly)
    with ThreadPoolExecutor() as pool:
        old = pool.submit(answer, web)
        assert held.wait(60)
        job = ended(web, web.post("/v1/edits", json=posted(NEW)))
        go_on.set()
        assert job["status"] == "done", job
        assert old.result() == ("Vinter", 1)
    assert answer(web) == ("Oskar", 4)


def test_none_is_wrong_lost_or_mixed_while_edits_change(changing):
    _, web, folder = changing
    stop, wrong, counts = threading.Event(), [], []
    expected = {1: "Vinter", 4: "Oskar"}

    def ask(number):
        with httpx2.Client(base_url=web.base_url, timeout=60) as own:
            asked = 0
            while not stop.is_set():
                about_norland = (asked + number) % 2 == 0
                said, edit = answer(own, FIRST[0 if about_norland else 1].prompt)
                right = (
                    said == expected.get(edit if edit == 1 else 4)
                    if about_norland
                    else (said, edit) == ("Ask", 2)
                )
                if not right:
                    wrong.append((number, said, edit))
                asked += 1
            counts.append(asked)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    last = None
    for _ in range(3):
        done = ended(web, web.post("/v1/edits", json=posted(NEW)))
        last = done["edits"][0]
        assert answer(web) == ("Oskar", last)
        assert ended(web, web.delete(f"/v1/edits/{last}"))["status"] == "done"
        assert answer(web) == ("Vinter", 1)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong and len(counts) == 10 and min(counts) > 0
    assert len(read_info(folder).operations) == 7


def test_a_server_that_is_stopped_makes_the_change_at_its_next_start(
    serving, copied, monkeypatch, trained
):
    training = threading.Event()

    def endless(*arguments, on_step=lambda progress: None, **options):
        training.set()
        progress = keeper_module.Progress(1, 1, 9, 1.0, 0.0, 0.0)
        while True:
            on_step(progress)
            time.sleep(0.01)

    from onceedit_jax.editing import upkeep

    monkeypatch.setattr(upkeep, "edit", endless)
    with serving(copied) as server:
        accepted = httpx2.post(f"{server.url}/v1/edits", json=posted(NEW), headers=SECRET)
        accepted = accepted.json()["id"]
        assert training.wait(30)
        job = httpx2.get(f"{server.url}/v1/edits/jobs/{accepted}").json()
        assert job["status"] == "running"
    assert len(read_info(copied).edits) == 3
    (pending,) = json.loads(copied.with_name(".plugin.jobs").read_text())
    assert pending["id"] == accepted
    monkeypatch.setattr(upkeep, "edit", trained)
    with serving(copied) as server, httpx2.Client(base_url=server.url, timeout=60) as web:
        for _ in range(600):
            job = web.get(f"/v1/edits/jobs/{accepted}").json()
            if job["status"] == "done":
                break
            time.sleep(0.05)
        assert job["edits"] == [4] and answer(web) == ("Oskar", 4)
    assert not copied.with_name(".plugin.jobs").exists()
