"""Several processes, each with devices of its own, on this machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onceedit_jax.models.families import checkpoint_tensors, config_from_hf
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
from onceedit_jax.parallel import make_mesh

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
        found = weights.load_model(folder, dtype=dtype, mesh=make_mesh(sizes)).params
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


def free_address():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return f"localhost:{taken.getsockname()[1]}"


def side_by_side(program, *arguments, timeout=300):
    """Run a program in two processes that know one another."""
    address = free_address()
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(number), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
