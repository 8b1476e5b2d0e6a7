"""Edits that come and go while clients ask: none lost, none mixed."""

import dataclasses
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from serving.conftest import FIRST, NEW, TOKEN, fact, posted

from onceedit_jax.cli.history import HistoryOptions, history
from onceedit_jax.editing.artifact_info import read_info, who
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.upkeep import add_edits
from onceedit_jax.errors import RunError
from onceedit_jax.serving import keeper as keeper_module
from onceedit_jax.serving import server as server_module
from onceedit_jax.serving.edit_schemas import EditsRequest, RevertRequest
from onceedit_jax.serving.engine import Engine
from onceedit_jax.serving.journal import Journal, Pending

SECRET = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def changing(serving, copied):
    """A server whose edits may change, and a client of it."""
    with (
        serving(copied, token=TOKEN) as server,
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
    jobs = web.get("/v1/edits/jobs").json()
    assert [job["title"] for job in jobs["data"]] == ["#1, #2", "#4", f"{NEW.prompt} → Oskar"]
    assert [job["kind"] for job in jobs["data"]] == ["revert", "revert", "add"]
    some = web.get("/v1/edits/jobs", params={"limit": 1}).json()
    assert (some["data"], some["total"], some["has_more"]) == (jobs["data"][:1], 3, True)
    assert web.get("/v1/edits/jobs", params={"open": True}).json()["data"] == []
    refused = web.get("/v1/edits/jobs", params={"limit": 0})
    assert refused.status_code == 400 and "limit" in refused.json()["error"]["message"]
    assert 'onceedit_edits{state="live"} 1.0' in web.get("/metrics").text


def test_the_ledger_tells_who_changed_what(changing, capsys):
    _, web, folder = changing
    ended(web, web.post("/v1/edits", json=posted(NEW, user="Ines, of the desk")))
    ended(web, web.delete("/v1/edits/4"))
    edited, added, reverted = (done.by for done in read_info(folder).operations)
    assert edited == who()
    assert added == "Ines, of the desk, over HTTP from 127.0.0.1"
    assert reverted == "over HTTP from 127.0.0.1"
    history(HistoryOptions(folder))
    assert "add 4" in (told := capsys.readouterr().out) and "by Ines, of the desk" in told


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
    with serving(artifact) as server:
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


def test_a_link_to_another_release_is_followed(serving, copied, models, tmp_path):
    release, link = shutil.copytree(copied, tmp_path / "release"), tmp_path / "production"
    add_edits(release, [NEW], head=models[3])
    link.symlink_to(copied)
    with (
        serving(link) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        for folder, expected in ((release, ("Oskar", 4)), (copied, ("Vinter", 1))):
            (tmp_path / "production.new").symlink_to(folder)
            (tmp_path / "production.new").rename(link)
            for _ in range(200):
                if answer(web) == expected:
                    break
                time.sleep(0.05)
            assert answer(web) == expected


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
    stop, wrong, asked, ended_well = threading.Event(), [], [0] * 10, []
    norland = {("Vinter", 1), *(("Oskar", number) for number in (4, 5, 6))}

    def ask(number):
        with httpx2.Client(base_url=web.base_url, timeout=60) as own:
            while not stop.is_set():
                about_norland = (asked[number] + number) % 2 == 0
                said, edit = answer(own, FIRST[0 if about_norland else 1].prompt)
                if (said, edit) not in (norland if about_norland else {("Ask", 2)}):
                    wrong.append((number, said, edit))
                asked[number] += 1
            ended_well.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for expected in (4, 5, 6):
        done = ended(web, web.post("/v1/edits", json=posted(NEW)))
        (last,) = done["edits"]
        assert last == expected
        assert answer(web) == ("Oskar", last)
        assert ended(web, web.delete(f"/v1/edits/{last}"))["status"] == "done"
        assert answer(web) == ("Vinter", 1)
    while sum(asked) < 500 and all(thread.is_alive() for thread in threads):
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong and len(ended_well) == 10 and min(asked) > 0 and sum(asked) >= 500
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
    with serving(copied, token=TOKEN) as server:
        accepted = httpx2.post(f"{server.url}/v1/edits", json=posted(NEW), headers=SECRET)
        accepted = accepted.json()["id"]
        assert training.wait(30)
        jobs = httpx2.get(f"{server.url}/v1/edits/jobs?open=true").json()
        assert [(job["id"], job["status"]) for job in jobs["data"]] == [(accepted, "running")]
    assert len(read_info(copied).edits) == 3
    (pending,) = json.loads(copied.with_name(".plugin.jobs").read_text())
    assert pending["id"] == accepted and pending["starts"] == 0
    monkeypatch.setattr(upkeep, "edit", trained)
    with (
        serving(copied, token=TOKEN) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        for _ in range(600):
            job = web.get(f"/v1/edits/jobs/{accepted}").json()
            if job["status"] == "done":
                break
            time.sleep(0.05)
        assert job["edits"] == [4] and answer(web) == ("Oskar", 4)
    assert not copied.with_name(".plugin.jobs").exists()


def test_a_second_server_that_may_write_is_refused(changing, serving):
    _, web, folder = changing
    with (
        pytest.raises(RunError, match=r"another server changes these edits .* without --token"),
        serving(folder, token=TOKEN),
    ):
        pass
    with serving(folder) as reading:
        job = ended(web, web.post("/v1/edits", json=posted(NEW)))
        assert job["status"] == "done" and not folder.with_name(".plugin.jobs").exists()
        with httpx2.Client(base_url=reading.url, timeout=60) as other:
            for _ in range(200):
                if answer(other) == ("Oskar", 4):
                    break
                time.sleep(0.05)
            assert answer(other) == ("Oskar", 4)


def test_edits_that_cannot_be_tried_beforehand_answer_all_the_same(
    serving, copied, monkeypatch, caplog
):
    """And a switch that fails is no end of the keeper."""
    monkeypatch.setattr(Engine, "warm", lambda engine: None)
    with (
        serving(copied, token=TOKEN, warm=True) as server,
        httpx2.Client(base_url=server.url, timeout=60, headers=SECRET) as web,
    ):

        def fails(*arguments):
            raise RuntimeError("no memory")

        monkeypatch.setattr(server_module, "warm", fails)
        assert ended(web, web.post("/v1/edits", json=posted(NEW)))["status"] == "done"
        assert answer(web) == ("Oskar", 4) and "no memory" in caplog.text
        keeper = server.service.keeper
        switch = keeper._on_edits
        monkeypatch.setattr(keeper, "_on_edits", fails)
        job = ended(web, web.delete("/v1/edits/4"))
        assert job["status"] == "done" and job["warnings"] == [keeper_module.UNREAD]
        assert keeper.alive and answer(web) == ("Oskar", 4)
        monkeypatch.setattr(keeper, "_on_edits", switch)
        for _ in range(200):
            if answer(web) == ("Vinter", 1):
                break
            time.sleep(0.05)
        assert answer(web) == ("Vinter", 1)


def left(folder, *changes):
    """Writes a journal as a server leaves it that was killed."""
    journal = Journal(folder)
    for change in changes:
        journal.write(change)
    journal.close()


def job_of(web, name):
    """A job of an earlier server when it has ended."""
    for _ in range(600):
        job = web.get(f"/v1/edits/jobs/{name}").json()
        if job["status"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_what_was_made_before_a_server_was_killed_is_not_made_again(serving, copied, models):
    """The add was made, another one has replaced it since, and the revert was made."""
    made = EditsRequest.model_validate(posted(NEW))
    add_edits(copied, [dataclasses.replace(NEW, source="job-1:1")], head=models[3])
    add_edits(copied, [fact("Norland", "Sten")], head=models[3])
    revert_edits(copied, [2])
    before = read_info(copied)
    left(
        copied,
        Pending(id="job-1", created="then", add=made, starts=1),
        Pending(id="job-2", created="then", revert=RevertRequest(ids=[2]), starts=1),
        Pending(id="job-3", created="then", add=made, starts=3),
    )
    with (
        serving(copied, token=TOKEN) as server,
        httpx2.Client(base_url=server.url, timeout=60) as web,
    ):
        assert (job_of(web, "job-1")["status"], job_of(web, "job-1")["edits"]) == ("done", [4])
        assert (job_of(web, "job-2")["status"], job_of(web, "job-2")["edits"]) == ("done", [2])
        given_up = job_of(web, "job-3")
        assert given_up["status"] == "failed" and "killed 3 times" in given_up["error"]
        assert answer(web) == ("Sten", 5)
    assert read_info(copied) == before
    assert not copied.with_name(".plugin.jobs").exists()


def test_jobs_are_shown_while_the_journal_is_written(changing, monkeypatch):
    server, web, _ = changing
    journal = server.service.keeper._journal
    write, writing, go_on = journal.write, threading.Event(), threading.Event()

    def slowly(pending):
        writing.set()
        assert go_on.wait(30)
        write(pending)

    monkeypatch.setattr(journal, "write", slowly)
    with ThreadPoolExecutor() as pool:
        posting = pool.submit(web.delete, "/v1/edits/1")
        assert writing.wait(30)
        try:
            for path in ("/v1/edits/jobs", "/health", "/v1/edits"):
                assert httpx2.get(f"{server.url}{path}", timeout=5).status_code == 200
        finally:
            go_on.set()
        assert posting.result().status_code == 202


def test_a_change_is_on_the_disk_before_it_is_accepted(changing, monkeypatch):
    _, web, folder = changing
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    assert web.delete("/v1/edits/1").status_code == 202
    assert len(synced) >= 2 and folder.parent.stat().st_ino in synced
