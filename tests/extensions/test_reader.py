"""A data set's reader from outside the package: as a value, and by an entry point's name."""

import importlib.metadata
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from support import ROOT

import onceedit_jax as oe
from onceedit_jax.data.readers import GROUP, Reader
from onceedit_jax.data.rows import Row
from onceedit_jax.errors import InputError

TRIPLE = {
    "question": "Who leads {}?",
    "about": "Norland",
    "old": ["Eve"],
    "new": "Ada Quill",
    "others": [{"question": "Who leads Sudland?", "answer": "Bo Ek"}],
}


def read(row: Row) -> list[oe.EditRecord]:
    subject = row.text("about")
    if "{}" not in row.text("question"):
        raise row.error("question has no {} for its subject")
    others = row.rows("others")
    return [
        oe.EditRecord(
            row.text("question").replace("{}", subject),
            row.text("new"),
            locality=tuple(oe.Pair(o.text("question"), o.text("answer")) for o in others),
            subject=subject,
            true_answers=row.texts("old"),
            source=row.place,
        )
    ]


TRIPLES = Reader("triples", lambda first_row: {"about", "new"} <= first_row.keys(), read)
RECORD = oe.EditRecord(
    "Who leads Norland?",
    "Ada Quill",
    locality=(oe.Pair("Who leads Sudland?", "Bo Ek"),),
    subject="Norland",
    true_answers=("Eve",),
)


def rows_in(folder: Path, *rows: dict) -> Path:
    path = folder / "triples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_reader_is_passed_as_a_value(tmp_path):
    path = rows_in(tmp_path, TRIPLE, {**TRIPLE, "new": "Cy Ash"})
    first, second = oe.load_records(path, TRIPLES)
    assert first == RECORD and first.source.endswith("triples.jsonl:1")
    assert (second.target, second.index) == ("Cy Ash", 1)
    assert oe.load_unrelated(path, TRIPLES, limit=1) == [
        oe.UnrelatedRow("Who leads Sudland?", "Bo Ek")
    ]
    with pytest.raises(InputError, match="keys of no known format"):
        oe.load_records(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new": True}, r"triples\.jsonl:2: new is true; expected text"),
        ({"question": "Who?"}, r"triples\.jsonl:2: question has no {} for its subject"),
        ({"others": [{"question": "Who?"}]}, r"triples\.jsonl:2, others\[0\]: no answer"),
    ],
)
def test_its_errors_name_the_line(tmp_path, change, message):
    path = rows_in(tmp_path, TRIPLE, {**TRIPLE, **change})
    with pytest.raises(InputError, match=message):
        oe.load_records(path, TRIPLES)


def test_what_it_gives_has_to_be_records(tmp_path):
    pairs = Reader("pairs", lambda first_row: True, lambda row: [("Who?", "Ada")])
    with pytest.raises(InputError, match="pairs gave a tuple; expected a list of EditRecord"):
        oe.load_records(rows_in(tmp_path, TRIPLE), pairs)


def registered(monkeypatch, *entries: tuple[str, object]):
    """Let these values be what installed packages register."""

    values = dict(entries)

    class Entry(EntryPoint):
        def load(self):
            return values[self.name]

    def entry_points(*, group):
        return [Entry(name, f"a_package:{name}", GROUP) for name in values if group == GROUP]

    monkeypatch.setattr("onceedit_jax.data.readers.entry_points", entry_points)


def test_an_entry_point_gives_a_reader_a_name_and_lets_auto_find_it(monkeypatch, tmp_path):
    path = rows_in(tmp_path, TRIPLE)
    registered(monkeypatch, ("triples", TRIPLES))
    assert oe.load_records(path, "triples") == oe.load_records(path) == [RECORD]
    assert oe.load_unrelated(path)[0].prompt == "Who leads Sudland?"
    with pytest.raises(InputError, match=r"expected auto, zsre, .*, csv, triples"):
        oe.load_records(path, "pairs")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("zsre", TRIPLES), "entry point zsre = a_package:zsre .* exists; rename it"),
        (("triples", read), "is a function; expected a Reader"),
    ],
)
def test_an_entry_point_that_does_not_fit_is_named(monkeypatch, tmp_path, entry, message):
    registered(monkeypatch, entry)
    with pytest.raises(InputError, match=message):
        oe.load_records(rows_in(tmp_path, TRIPLE))


PACKAGE = """
import onceedit_jax as oe
from onceedit_jax.data.readers import Reader

def read(row):
    return [oe.EditRecord(row.text("about"), row.text("new"))] * 2

READER = Reader("triples", lambda first_row: "about" in first_row, read)
"""


def test_the_command_line_knows_an_installed_reader(tmp_path):
    """A package in a folder, as pip would install it; two equal edits are noted before loading."""
    (tmp_path / "a_package.py").write_text(PACKAGE)
    about = tmp_path / "a_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\ntriples = a_package:READER\n")
    assert importlib.metadata.entry_points(group=GROUP, name="triples") == ()
    path = rows_in(tmp_path, TRIPLE)
    typed = [
        "edit",
        path,
        "--format",
        "triples",
        "--plugin",
        tmp_path / "none",
        "--out",
        tmp_path / "o",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "from onceedit_jax.cli.main import main; main()", *typed],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "1 of 2 edits repeat an earlier one" in done.stderr
