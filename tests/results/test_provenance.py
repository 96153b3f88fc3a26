import getpass
import json
import os
import platform
import socket
import subprocess
from importlib import metadata

import numpy as np

from scoutview.results.provenance import commit, differences, environment, usable_cores


def test_environment__states_this_installation():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == np.__version__
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["cores"] == usable_cores() >= 1
    assert found["time"].endswith("+00:00")


def test_environment__names_no_host_user_or_path():
    text = json.dumps(environment())
    assert socket.gethostname() not in text
    assert os.getcwd() not in text
    user = getpass.getuser()
    assert f'"{user}"' not in text


def test_commit__is_that_of_git_and_tells_of_changes(tmp_path):
    assert commit(tmp_path) == ""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    head = commit(tmp_path)
    assert len(head) == 40
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == head + "+changes"


def test_differences__name_what_can_change_the_last_bits():
    before = environment()
    assert differences(before, {**before, "time": "later", "commit": "other"}) == []
    now = {**before, "threads": {"torch": "9"}, "packages": {**before["packages"], "torch": "0"}}
    said = differences(before, now)
    assert len(said) == 2
    assert any(s.startswith("threads was") for s in said)
    assert any(s.startswith("torch was") and s.endswith("is 0.") for s in said)
