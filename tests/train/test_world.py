"""How processes agree: two real ones, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

AGREE = """
import json, sys
from pathlib import Path
import torch
from torch import nn
from usfmae.train.distributed import gradients_stay, join, replicate

with join("cpu") as world:
    own = torch.tensor([1.0 + 2 * world.rank, 10.0 * world.rank], requires_grad=True)
    model = replicate(nn.Linear(1, 1, bias=False), world)

    def gradient(stay):
        model.zero_grad()
        with gradients_stay(model, stay):
            model(torch.full((1, 1), 1.0 + 2 * world.rank)).sum().backward()
        return model.module.weight.grad.item()

    found = {
        "mean": world.mean(own).tolist(), "sum": world.sum(own).tolist(), "own": own.tolist(),
        "most": [world.most(5 - world.rank), world.most(3 + world.rank)],
        "least": [world.least(5 - world.rank), world.least(3 + world.rank)],
        "told": world.tell(f"from {world.rank}"),
        "shared": gradient(False), "kept": gradient(True), "leads": world.leads, "size": world.size,
    }
    Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps(found))
"""


def test_two_processes_agree(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "agree.py").write_text(AGREE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo), "OPENUS_TIMEOUT": "60"}
    command += [str(tmp_path / "agree.py"), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, found in enumerate(both):
        assert found["mean"] == [2, 5] and found["sum"] == [4, 10]
        assert found["own"] == [1 + 2 * rank, 10 * rank]  # what was given stays as it was
        assert found["most"] == [5, 4] and found["least"] == [4, 3]
        assert found["told"] == "from 0" and found["leads"] == (rank == 0) and found["size"] == 2
        # Gradients are averaged, but for all parts of a batch before its last.
        assert found["shared"] == 2 and found["kept"] == 1 + 2 * rank
