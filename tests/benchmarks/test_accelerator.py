"""`benchmarks.accelerator` with tiny models: its rows, its files, and what fails or has no time."""

import dataclasses
import json
import subprocess
import sys

import jax.numpy as jnp
import pytest
from support import PYTHONPATH, ROOT

from benchmarks import accelerator
from benchmarks.accelerator_bench import TINY_SIZES, Bench, Measurement, Part, pairs, random_params
from benchmarks.accelerator_fusion import (
    Drafted,
    drafted_answer,
    fused_steps,
    random_inputs,
    state_of,
)
from benchmarks.accelerator_parts import SAME_TOKENS
from benchmarks.measure import table
from onceedit_jax.fusion.relative_rule import relative
from onceedit_jax.fusion.vocabulary_rule import vocabulary
from onceedit_jax.planning.costs import least_seconds, step_costs
from onceedit_jax.planning.hardware import CHIPS

PAIR = pairs(tiny=True)[0]


def results(folder):
    return json.loads((folder / "accelerator.json").read_text())


def part(name, *runs):
    rows = [Measurement({"of": f"{name} {i}"}, run) for i, run in enumerate(runs)]
    return Part(name, f"Heading of {name}", lambda bench, pair: iter(rows), f"Note on {name}.")


def fails():
    raise MemoryError("out of memory\nsecond line")


@pytest.fixture
def run(tmp_path):
    def run(*parts, seconds=60.0):
        bench = Bench(TINY_SIZES, None)
        page = accelerator.Page(tmp_path, bench, tiny=True)
        accelerator.measure(bench, [(p, PAIR) for p in parts], page, seconds=seconds)
        return results(tmp_path)["parts"], (tmp_path / "accelerator.md").read_text()

    return run


def test_what_fails_is_a_row_and_the_rest_goes_on(run):
    rows, page = run(part("a", fails, lambda: {"ms": 1.5}), part("b", lambda: {"ms": 2.5}))
    assert rows == {
        "a": [{"of": "a 0", "failed": "MemoryError: out of memory"}, {"of": "a 1", "ms": 1.5}],
        "b": [{"of": "b 0", "ms": 2.5}],
    }
    assert "| a 1 | 1.5 |" in page and "- of a 0: MemoryError: out of memory" in page


def test_a_part_that_cannot_begin_is_a_row_too(run):
    def broken(bench, pair):
        yield Measurement({"of": "first"}, lambda: {"ms": 1.0})
        raise ValueError("no such shape")

    rows, _ = run(Part("a", "A", broken, ""), part("b", lambda: {"ms": 2.5}))
    assert rows["a"] == [
        {"of": "first", "ms": 1.0},
        {"pair": PAIR.name, "failed": "ValueError: no such shape"},
    ]
    assert rows["b"] == [{"of": "b 0", "ms": 2.5}]


def test_nothing_is_begun_when_the_time_is_over(run):
    rows, page = run(part("a", fails), seconds=0.0)
    assert "not begun" in rows["a"][0]["failed"] and "not begun" in page


def test_rows_are_in_the_files_before_the_next_one_is_measured(run, tmp_path):
    def seen():
        return {"before": results(tmp_path)["parts"]["a"]}

    rows, _ = run(part("a", lambda: {"ms": 1.0}, seen))
    assert rows["a"][1]["before"] == [{"of": "a 0", "ms": 1.0}]


def test_the_command_writes_shares_and_predictions_from_the_peaks(tmp_path, capsys, monkeypatch):
    few = dataclasses.replace(TINY_SIZES, batches=(1,))
    monkeypatch.setattr(accelerator, "pairs", lambda tiny: [PAIR])
    monkeypatch.setattr(accelerator, "TINY_SIZES", few)
    command = ["--tiny", "--out", str(tmp_path), "--parts", "decoding"]
    accelerator.main([*command, "--peak-bandwidth", "1e9", "--peak-flops", "1e12"])
    found = results(tmp_path)
    assert found["tiny"] and "NaN" not in json.dumps(found)
    assert found["peaks"]["bandwidth"] == 1e9
    assert found["device"]["kind"] == "cpu" and found["versions"]["onceedit-jax"]
    assert list(found["parts"]) == ["decoding"]
    step, plugin = found["parts"]["decoding"]
    assert "failed" not in step and "failed" not in plugin
    assert step["model"] == "llama2-7b" and step["batch"] == 1
    assert step["tokens/s"] == pytest.approx(1e3 / step["step, ms"])
    moved = step["GB a step"] / step["share of peak bandwidth"]  # at the peak, in so many seconds
    assert moved == pytest.approx(step["step, ms"] / 1e3)
    assert step["measured / plan"] == pytest.approx(step["step, ms"] / step["plan, ms"])
    assert (tmp_path / "accelerator.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize("rule", [vocabulary(), relative()], ids=lambda rule: rule.name)
def test_a_shared_token_that_leads_on_both_sides_is_what_a_rule_gives(rule):
    bench = Bench(TINY_SIZES, None)
    state, inputs = state_of(bench, PAIR, rule), random_inputs(PAIR, rule, 3, clear=True)
    tokens = fused_steps(rule, state, inputs, steps=2)
    assert jnp.array_equal(tokens, PAIR.anchors()[1][:3])


def test_a_device_is_compared_with_the_cpu():
    first = next(SAME_TOKENS.measurements(Bench(TINY_SIZES, None), PAIR))
    found = first.run()
    assert found["the same"] == found["tokens"] == 8 * 32


def test_without_known_peaks_there_are_no_shares():
    bench = Bench(TINY_SIZES, None)
    costs = step_costs(PAIR.target.config, rows=1, context=8)
    assert bench.beside(1.0, costs, "bandwidth") == {}
    known = Bench(TINY_SIZES, CHIPS["h100"]).beside(1.0, costs, "bandwidth")
    assert known["plan, ms"] == 1e3 * least_seconds(costs, CHIPS["h100"])


@pytest.mark.parametrize(("accepted", "rounds"), [(0, 8), (2, 3), (4, 2)])
def test_as_much_of_each_draft_is_accepted_as_asked_for(accepted, rounds):
    bench = Bench(TINY_SIZES, None)
    found = drafted_answer(bench, PAIR.plugin, PAIR.target, accepted=accepted, length=8)
    assert isinstance(found, Drafted) and len(found.tokens) == 8
    assert found.rounds == rounds  # 8, 1 at a time; 2 and one of the target's; 4 at a time


def test_random_weights_have_the_shapes_and_scales_of_initial_ones():
    params = random_params(PAIR.target.config, "bfloat16")
    gate = params["layers"]["mlp"]["gate"]
    hidden = PAIR.target.config.hidden_size
    assert gate.shape == (2, hidden, 2 * hidden) and str(gate.dtype) == "bfloat16"
    assert float(gate.astype("float32").std()) == pytest.approx(hidden**-0.5, rel=0.05)
    assert float((gate[0] == gate[1]).mean()) < 0.1


def test_a_table_has_an_empty_cell_where_a_row_lacks_a_figure():
    assert table([{"a": 1}, {"a": 2, "b": 0.5}]).splitlines()[2:] == ["| 1 |  |", "| 2 | 0.5 |"]


def test_nothing_is_imported_that_other_machines_may_lack():
    lacking = ["torch", "tyro", "gguf", "datasets", "pyarrow", "matplotlib", "starlette"]
    program = (
        "import sys, benchmarks.accelerator;"
        f"print([name for name in {lacking} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": PYTHONPATH, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
