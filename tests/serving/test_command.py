"""`onceedit serve` as a process: it ends on a signal, and loses no edit when it is killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx2
import pytest
from serving.conftest import FIRST, NEW, TOKEN, posted
from support import PYTHONPATH

from onceedit_jax.cli import main
from onceedit_jax.editing.artifact_info import read_info
from onceedit_jax.errors import OnceEditError

SECRET = {"Authorization": f"Bearer {TOKEN}"}
BODY = {"model": "target", "messages": [{"role": "user", "content": FIRST[0].prompt}]}


@pytest.fixture
def started(models):
    """Starts the command: `with started(folder) as (process, url)`."""

    @contextlib.contextmanager
    def start(folder, *flags):
        command = [
            sys.executable, "-m", "onceedit_jax", "serve", "--edited", str(folder),
            "--target", str(models[0] / "target"), "--port", "0", "--token", TOKEN, "--no-warm",
            *flags,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": PYTHONPATH, "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            for line in process.stderr:
                assert "models: target;" in line or "listening" not in line
                if found := re.search(r"http://[\d.:]+", line):
                    break
            yield process, found[0]
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    return start


def test_it_ends_on_a_signal_after_open_answers(started, artifact):
    with started(artifact) as (process, url):
        with httpx2.Client(base_url=url, timeout=60) as web:
            said = web.post("/v1/chat/completions", json=BODY).json()
            assert said["choices"][0]["message"]["content"] == "Vinter"
            with web.stream(
                "POST", "/v1/completions",
                json={"model": "target", "prompt": "How far?", "max_tokens": 40, "stream": True},
            ) as stream:  # fmt: skip
                lines = stream.iter_lines()
                assert json.loads(next(lines).removeprefix("data: "))["object"] == "text_completion"
                process.send_signal(signal.SIGTERM)
                *_, last = (line for line in lines if line)
                assert last == "data: [DONE]"
        assert process.wait(30) == 0
        assert "stopped" in process.stderr.read()


@pytest.mark.slow
def test_a_server_that_is_killed_under_load_has_lost_nothing(started, copied):
    """The change that was accepted is made by the next server; the ledger is whole."""
    training = ("--epochs", "60", "--learning-rate", "3e-2", "--batch-size", "4",
                "--paraphrase-ratio", "0", "--early-stop", "3")  # fmt: skip
    with (
        started(copied, *training) as (process, url),
        httpx2.Client(base_url=url, headers=SECRET, timeout=60) as web,
    ):
        job = web.post("/v1/edits", json=posted(NEW)).json()["id"]
        for _ in range(3):
            assert web.post("/v1/chat/completions", json=BODY).status_code == 200
        process.kill()
    read_info(copied)
    with (
        started(copied, *training) as (_, url),
        httpx2.Client(base_url=url, headers=SECRET, timeout=60) as web,
    ):
        for _ in range(1200):
            found = web.get(f"/v1/edits/jobs/{job}").json()
            if found["status"] in ("done", "failed"):
                break
            time.sleep(0.1)
        assert found["status"] == "done", found
        assert [entry.id for entry in read_info(copied).live] == [2, 3, 4]
        note = web.post("/v1/chat/completions", json=BODY).json()["choices"][0]["onceedit"]
        assert note["edit"] == 4


REFUSED = [
    (("--port", "99999"), "port 99999"),
    (("--rows", "0"), "setting rows=0: must be above 0"),
    (("--context", "1"), "setting context=1"),
    (("--token", " "), "setting token: is empty"),
    (("--token", "\n"), "setting token: is empty"),
    (("--token", "é"), "setting token: clients could not send it"),
    (("--token", "secret "), "setting token: clients could not send it"),
    (("--rule", "vocabulary"), "the rule vocabulary reads both models' logits"),
    (("--rule", "draft", "--trust"), "trusts drafts unchecked"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED)
def test_settings_with_which_nothing_can_be_served_are_refused(
    artifact, models, monkeypatch, flags, words
):
    monkeypatch.setattr(main, "prepare_environment", lambda: None)
    target = str(models[0] / "target")
    with pytest.raises(OnceEditError, match=words):
        main.call(["serve", "--edited", str(artifact), "--target", target, "--no-warm", *flags])
