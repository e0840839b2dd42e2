import subprocess
import sys
from pathlib import Path

import pytest

from beam_pipelines import store
from beam_pipelines.schema import Capture, to_row

_READ = """
import os, sys
from beam_pipelines import store
before = len(os.listdir("/proc/self/task"))
store.read_part(sys.argv[1])
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads")
def test_reading_a_part_leaves_no_thread_behind(tmp_path):
    # One that still holds the bytes when Python exits aborts the process.
    stage = store.Stage(str(tmp_path), Capture)
    capture = Capture(warc_file="a", warc_offset=0, warc_length=5, languages=("fin",))
    store.write_part(stage, "part", [to_row(capture)], {})
    command = [sys.executable, "-c", _READ, str(tmp_path / "part.parquet")]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(read.stdout) == 0
