"""Progress in a log: plain lines, few of them, and no bar."""

import subprocess
import sys

import pytest

from onceedit_jax.cli.progress import Lines, duration


class Log:
    """Lines with a clock that the test sets."""

    def __init__(self):
        self.now = 0.0
        self.texts = []
        self.lines = Lines(self.texts.append, every=30, clock=lambda: self.now)

    def at(self, now, *progress):
        self.now = now
        self.lines.show("steps", *progress)


def test_a_log_has_the_first_state_then_one_line_each_thirty_seconds_and_the_last():
    log = Log()
    for second in range(101):
        log.at(second, second, 100)
    assert log.texts == [
        "steps: 0 of 100",
        "steps: 30 of 100, 30 s so far, about 1 min 10 s left",
        "steps: 60 of 100, 1 min 0 s so far, about 40 s left",
        "steps: 90 of 100, 1 min 30 s so far, about 10 s left",
        "steps: all 100 done in 1 min 40 s",
    ]


def test_the_time_left_counts_only_what_this_run_has_done():
    log = Log()
    log.at(0, 80, 100)
    log.at(40, 90, 100, "loss 0.5")
    assert log.texts[-1] == "steps: 90 of 100, 40 s so far, about 40 s left (loss 0.5)"


def test_work_that_stops_early_says_where():
    log = Log()
    log.at(0, 1, 100)
    log.at(12, 40, 100)
    log.lines.close()
    assert log.texts == ["steps: 1 of 100", "steps: ended at 40 of 100 after 12 s"]


def test_work_of_the_same_name_may_begin_again():
    log = Log()
    log.at(0, 1, 1)
    log.at(1, 1, 1)
    assert log.texts == ["steps: all 1 done in 0 s"] * 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_times_are_written_as_people_write_them(seconds, text):
    assert duration(seconds) == text


def test_there_is_no_bar_in_a_pipe():
    program = (
        "from onceedit_jax.cli.progress import evaluation_progress\n"
        "with evaluation_progress() as (on_block, on_records):\n"
        "    on_block('a-model', 1, 2)\n"
        "    on_block('a-model', 2, 2)\n"
        "    on_records(0, 8)\n"
        "    on_records(8, 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "transfer table of a-model, blocks: 1 of 2",
        "transfer table of a-model, blocks: all 2 done in 0 s",
        "evaluated records: 0 of 8",
        "evaluated records: all 8 done in 0 s",
    ]
