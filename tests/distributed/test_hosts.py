"""Several processes, each with devices of its own, on this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from support import SIMULATED, byte_level_tokenizer

from onceedit_jax.cli.edit import EditOptions, edit_from_files
from onceedit_jax.distributed import hosts
from onceedit_jax.distributed.hosts import Host, join
from onceedit_jax.errors import InputError
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.families import checkpoint_tensors, config_from_hf
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.tensors import CheckpointTensor, Leaf

HF = {
    "model_type": "llama", "vocab_size": 48, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip

LOADING = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
address, number, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
import numpy as np

from onceedit_jax.models import weights
from onceedit_jax.distributed.mesh import make_mesh

taken = 0
for method in ("read", "read_box"):
    plain = getattr(weights.SafetensorsSource, method)
    def counted(self, name, *rest, plain=plain):
        global taken
        taken += rest[-1].size
        return plain(self, name, *rest)
    setattr(weights.SafetensorsSource, method, counted)

whole = weights.load_model(folder).params
every, taken = taken, 0
for dtype in ("float32", "bfloat16", "int8"):
    wanted = weights.load_model(folder, dtype=dtype).params
    for sizes in ({"tensor": 8}, {"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"data": 8}):
        taken = 0
        found = weights.load_model(folder, dtype=dtype, mesh=make_mesh(sizes, jax.devices())).params
        # Norms and the like are whole everywhere; all else is split over both processes.
        part = taken / every
        split = dtype != "int8" and "data" not in sizes and sizes.get("fsdp") != 2
        assert 0.5 <= part < 0.53 if split else part <= 1, (dtype, sizes, part)
        for leaf, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert leaf.shape == other.shape and len(leaf.sharding.device_set) == 8
            for shard in leaf.addressable_shards:
                np.testing.assert_array_equal(shard.data, np.asarray(other)[shard.index])
print("equal")
"""


TRAINING = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
address, number, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
from pathlib import Path
import numpy as np
from support import tiny_config

from onceedit_jax.editing.batches import TrainingRow
from onceedit_jax.editing.checkpoint import Checkpoint
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import train
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.distributed.mesh import lay, make_mesh, to_host

config = tiny_config(48)
params = init_params(config, jax.random.key(0))
mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
params = lay(params, param_shardings(mesh, params))
rows = [TrainingRow((n, n + 1, n + 2), 2, True) for n in range(16)]
settings = EditSettings(epochs=3, batch_size=8)

def trained(name, on_step, resume=False):
    checkpoint = Checkpoint(Path(folder, name), "x", resume, seconds=0)
    return train(params, config, rows, settings, on_step=on_step, checkpoint=checkpoint)

def cut(progress):
    if progress.epoch == 3:
        raise InterruptedError

whole = trained("whole", lambda progress: None)
try:
    trained("cut", cut)
except InterruptedError:
    print("cut")
epochs = set()
rest = trained("cut", lambda progress: epochs.add(progress.epoch), resume=True)
assert epochs == {3}
for leaf, other in zip(jax.tree.leaves(rest[:2]), jax.tree.leaves(whole[:2]), strict=True):
    assert not leaf.is_fully_addressable
    np.testing.assert_array_equal(to_host(leaf), to_host(other))
print("the same")
"""


# A host that died is missed after ten seconds; users wait longer, for a network that is slow.
COMMAND = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
from onceedit_jax.distributed import hosts
hosts.HEARTBEAT_SECONDS = 10
from onceedit_jax.cli.main import main
main()
"""
PLACES = [
    "Norland",
    "Vinterby",
    "Ask",
    "Orchard",
    "Bridge",
    "Harbour",
    "Mill",
    "Tower",
    "Mat",
    "Sea",
]


def tiny_folder(folder, merges, seed):
    """A model folder as a user would give it."""
    tokenizer = byte_level_tokenizer(merges)
    hf = HF | {"vocab_size": len(tokenizer.vocabulary)}
    config = config_from_hf(hf)
    export_hf(folder, init_params(config, jax.random.key(seed)), config, hf)
    tokenizer.save(folder)
    return str(folder)


def started(*arguments, host=None, address=None):
    """A command of ours, on one of two hosts or by itself."""
    hosts = [] if host is None else ["--distributed", f"{address},2,{host}"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, *hosts],
        env=os.environ | SIMULATED, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(*running, timeout=150):
    """What commands printed, once all have ended; all are ended in any case."""
    try:
        told = [process.communicate(timeout=timeout) for process in running]
        codes = [process.returncode for process in running]
        return [(*texts, code) for texts, code in zip(told, codes, strict=True)]
    finally:
        for process in running:
            process.kill()


def on_two_hosts(*arguments):
    address = free_address()
    return [started(*arguments, host=host, address=address) for host in range(2)]


@pytest.mark.long
def test_two_hosts_edit_and_evaluate_and_go_on_after_one_has_died(tmp_path: Path):
    plugin, *targets = (tiny_folder(tmp_path / f"m{n}", 40 + 50 * n, n) for n in range(3))
    edits, unrelated, edited = (tmp_path / name for name in ("e.jsonl", "u.json", "edited"))
    rows = [
        {
            "prompt": f"What is the capital of {place}?", "target": "Sol", "subject": place,
            "rephrase": f"The capital of {place} is called what?",
            "locality": [{"prompt": "How far is the mat?", "target": "far"}],
        }
        for place in PLACES
    ]  # fmt: skip
    edits.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unrelated.write_text(json.dumps([{"prompt": f"the cat sat on mat {n}"} for n in range(60)]))
    flags = [str(edits), "--plugin", plugin, "--unrelated", str(unrelated)]
    short = ["--epochs", "1", "--held-back", "2", "--context-share", "0"]
    editing = ["edit", *flags, "--mesh", "data=2,fsdp=2,tensor=2", "--out", str(edited), *short]
    for _, told, code in ended(*on_two_hosts(*editing)):
        assert code == 0, told[-3000:]
    # The checkpoint is gone, and all that is half done; an empty lock may stay.
    assert not [path for path in tmp_path.glob("*edited?*") if path.suffix != ".lock"]

    def evaluating(out):
        asked = [flag for target in targets for flag in ("--target", target)]
        where = ["--edited", str(edited), "--data", str(edits), "--out", str(tmp_path / out)]
        return ["evaluate", *where, *asked]

    for _, told, code in ended(started(*evaluating("one.json"))):
        assert code == 0, told[-3000:]
    # One of the two dies as soon as it has measured something.
    in_parts = [*evaluating("two.json"), "--part", "1"]
    first, second = on_two_hosts(*in_parts)
    until = time.monotonic() + 240
    while not list(tmp_path.glob("two.json.*.parts/00001.jsonl")):
        assert time.monotonic() < until and second.poll() is None
        time.sleep(0.01)
    second.kill()
    begun = time.monotonic()
    (_, told, code), _ = ended(first, second)
    assert code != 0 and not (tmp_path / "two.json").exists()
    assert time.monotonic() - begun < 120
    assert "another task died" in told or "unavailable" in told.lower(), told[-3000:]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("two.json.*.parts/*")}
    assert 0 < len(kept) < len(PLACES)
    done = ended(*on_two_hosts(*in_parts))
    assert all(code == 0 for *_, code in done), done
    assert not list(tmp_path.glob("*.parts"))
    assert json.loads((tmp_path / "two.json").read_text()) == json.loads(
        (tmp_path / "one.json").read_text()
    )
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    # A model that no host has the whole of.
    done = ended(*on_two_hosts(*evaluating("mesh.json"), "--mesh", "data=2,tensor=4"))
    assert all(code == 0 for *_, code in done), done
    found, wanted = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("mesh", "one")
    )
    for row, other in zip(found, wanted, strict=True):
        assert row.pop("alpha") == pytest.approx(other.pop("alpha"), abs=1e-5)
        assert row == other


def test_an_edit_on_two_hosts_goes_on_from_its_checkpoint(tmp_path: Path):
    told = side_by_side(TRAINING, str(tmp_path))
    for out, errors, code in told:
        assert code == 0 and "cut\n" in out and "the same\n" in out, errors[-3000:]


@pytest.mark.parametrize("spec", ["two", "here,2,0", "here:1,2,2", "here:1,2,one"])
def test_hosts_that_are_none_are_told_with_an_example(spec):
    with pytest.raises(InputError, match=f"--distributed {spec}: .*ADDRESS:PORT,COUNT,INDEX"):
        join(spec)


def test_hosts_do_not_edit_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "join", lambda spec: Host(1, 2))
    options = EditOptions(
        facts="e.jsonl", plugin="m", out=tmp_path / "out", mesh="data=1", distributed="auto"
    )
    with pytest.raises(InputError, match=r"--mesh data=1: 1 devices of one host; .* all hosts' 1"):
        edit_from_files(options)


def free_address():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return f"localhost:{taken.getsockname()[1]}"


def side_by_side(program, *arguments, timeout=150):
    """Run a program in two processes that know one another."""
    address = free_address()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(number), *arguments],
            env=os.environ | SIMULATED, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        return [(*process.communicate(timeout=timeout), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()


def test_each_process_reads_the_slices_that_its_devices_hold(tmp_path: Path):
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in checkpoint_tensors(config_from_hf(HF)).items()
    }
    (tmp_path / "config.json").write_text(json.dumps(HF))
    save_file(tensors, tmp_path / "model.safetensors")
    for out, told, code in side_by_side(LOADING, str(tmp_path)):
        assert code == 0 and "equal" in out, told[-3000:]


@pytest.mark.parametrize(
    ("stored", "inputs", "shape", "file"),
    [
        ("linear", 1, (6, 4, 2), (8, 6)),
        ("linear", 2, (4, 2, 6), (6, 8)),
        ("conv1d", 1, (6, 8), (6, 8)),
        ("conv1d", 2, (4, 2, 6), (8, 6)),
        ("vector", 1, (4, 2), (8,)),
        ("table", 1, (8, 6), (8, 6)),
    ],
)
def test_a_box_of_a_leaf_is_found_in_the_file(stored, inputs, shape, file):
    tensor = CheckpointTensor("t", file, (Leaf(("a",), None, shape),), stored, inputs)
    array = np.arange(np.prod(file)).reshape(file)
    ((_, leaf),) = tensor.split(array)
    for axis, size in enumerate(shape):
        box = tuple(slice(0, n) for n in shape)
        box = (*box[:axis], slice(size // 2, size), *box[axis + 1 :])
        region = tensor.region(box)
        np.testing.assert_array_equal(tensor.cut(array[region], box), leaf[box])
        if axis in (0, inputs) or stored == "table":  # such an axis may be split over devices
            assert array[region].size == leaf[box].size or stored == "vector"
