"""Memory is kept between pictures: measured by the pages the kernel must clear."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOP = """
import resource, sys
import numpy as np
from openus.stages.heap import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def picture():
    parts = [np.ones(1_500_000, np.uint8) for _ in range(4)]
    return sum(int(part[0]) for part in parts)

picture()
began = faults()
for _ in range(20):
    picture()
print((faults() - began) / 20)
"""


def pages_a_picture(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", LOOP, how], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_freed_memory_is_not_given_back_between_pictures() -> None:
    assert pages_a_picture("kept") < 20
    assert pages_a_picture("as it is") > 200  # else the whole module can go
