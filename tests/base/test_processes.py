"""Worker processes start, or somebody is told why they do not."""

import os
import subprocess
import sys

from scoutview.base.processes import process_pool

WORK = """from scoutview.base.processes import process_pool
with process_pool(2) as pool:
    print(pool.submit(int, "7").result())
"""


def test_process_pool__works_in_other_processes():
    with process_pool(2, preload=("scoutview.base.errors",)) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


def test_process_pool__a_script_without_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORK)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "RunError: Worker processes end while they start" in ended.stderr
    assert 'if __name__ == "__main__":' in ended.stderr


def test_process_pool__a_script_with_main_guard_works(tmp_path):
    script = tmp_path / "script.py"
    script.write_text('if __name__ == "__main__":\n    ' + WORK.strip().replace("\n", "\n    "))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "7\n"), ended.stderr
