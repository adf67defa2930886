"""Where a result comes from: the code's version and commit, and the command."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import speechssl


def commit() -> str | None:
    """The commit of the checkout that speechssl is run from, with "+changes" where files differ
    from it; None where it is installed without one."""
    root = Path(speechssl.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.decode().strip() + ("+changes" if changes.stdout.strip() else "")


def this_command() -> dict[str, Any]:
    """When and in which folder this process was started, with which code and arguments, in plain
    JSON values."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": speechssl.__version__,
        "commit": commit(),
        "command": shlex.join(["speechssl", *sys.argv[1:]]),
        "folder": os.getcwd(),
    }
