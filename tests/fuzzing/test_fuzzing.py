"""Some of what `make fuzz` tries, and that it finds what it looks for."""

import dataclasses
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import __main__ as fuzz
from fuzzing import trial as trials
from fuzzing.formats import FORMATS
from fuzzing.kills import Arena
from fuzzing.mutators import bytes_of, json_of
from fuzzing.trial import Laboratory
from onceedit_jax.errors import InputError

SEED = 20


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return Laboratory(fuzz.make_samples(folder / "samples"), folder / "here", seed=SEED)


@pytest.mark.parametrize("place", range(len(FORMATS)), ids=[format.name for format in FORMATS])
def test_damaged_files_are_refused_or_read_as_by_others(laboratory, place):
    tried = [laboratory.try_input(place + n * len(FORMATS)) for n in range(3)]
    assert not [each for each in tried if each.outcome == "wrong"]


@given(st.binary(max_size=40), st.integers(0, 99))
def test_the_same_seed_damages_in_the_same_way(data, seed):
    first, second = (bytes_of(data, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


@given(st.integers(0, 99))
def test_json_is_changed(seed):
    sound = b'{"a": [1, 2, {"b": "c"}], "d": null, "e": 0.5}'
    rng = np.random.default_rng(seed)
    assert any(json_of(sound, rng) != sound for _ in range(4))


def planted(read):
    """A format whose reader does as it is told."""
    return dataclasses.replace(FORMATS[-1], read=read, by_others=lambda path: {"a": 1})


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (KeyError("x"), "KeyError"),
        (BaseException("panic"), "BaseException"),
        (InputError("a bad file"), "is not named"),
        ({"a": 2}, "otherwise than by others"),
    ],
)
def test_what_is_read_wrongly_is_found(laboratory, monkeypatch, fault, why):
    sound = [True, True, True]  # the reader is called so often before a file is damaged

    def read(path):
        if sound:
            sound.pop()
            return {"a": 1}
        if isinstance(fault, BaseException):
            raise fault
        return fault

    sound.pop()
    monkeypatch.setattr(trials, "FORMATS", [planted(read)])
    laboratory._sound.clear()
    found = laboratory.try_input(0)
    laboratory._sound.clear()
    assert found.outcome == "wrong" and why in found.why
    assert fuzz.faults([found]) == [found]


def test_a_process_that_hangs_or_dies_is_found(tmp_path, monkeypatch):
    program = """
import sys, json, time
log, first = open(sys.argv[3], "w", buffering=1), int(sys.argv[5])
log.write(json.dumps({"begun": first}) + "\\n")
sys.exit(3) if first else time.sleep(600)
"""
    real = fuzz.subprocess.Popen

    def start(command, **more):
        return real([command[0], "-c", program, *command[3:]], **more)

    monkeypatch.setattr(fuzz.subprocess, "Popen", start)
    monkeypatch.setattr(fuzz, "HANG", 1.0)
    lane = fuzz.Lane(tmp_path, tmp_path / "lane", seed=0, numbers=range(2))
    while lane.look():
        time.sleep(0.05)
    assert [each.why for each in lane.trials] == ["no end after 1 s", "the process ended with 3"]


def test_nothing_is_lost_by_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))  # restored afterwards
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    found = Arena(tmp_path).kill("revert", random.Random(SEED))
    assert found.sound, found
