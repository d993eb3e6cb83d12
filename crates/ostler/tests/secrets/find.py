"""Looks for secrets in all that a program in a sandbox can read: files, and the environment, command lines, open files and
memory of every process.

The first argument is a list of [name, secret], veiled, so that the search does not find itself; the second is when the
test began: what has not changed since cannot hold what was made later.
"""

import json
import os
import re
import stat
import subprocess
import sys

SECRETS = [(n, bytes(b ^ 0x5A for b in bytes.fromhex(s))) for n, s in json.loads(sys.argv[1])]
BEGAN = float(sys.argv[2])
PATTERN = re.compile(b"|".join(re.escape(s) for _, s in SECRETS))
looked = {"files": 0, "processes": 0, "memories": 0, "bytes": 0}
found = []


def look(where, content):
    looked["bytes"] += len(content)
    for hit in PATTERN.finditer(content):
        name = next(n for n, s in SECRETS if s == hit.group())
        found.append(f"{name} in {where}")


def pieces(file, length=None):
    """With an overlap, so that nothing is cut in two."""
    rest = b""
    while length is None or length > 0:
        piece = file.read(1 << 20 if length is None else min(1 << 20, length))
        if not piece:
            return
        if length is not None:
            length -= len(piece)
        yield rest + piece
        rest = piece[-256:]


for root, dirs, files in os.walk("/"):
    dirs[:] = [d for d in dirs if os.path.join(root, d) not in ("/proc", "/sys")]
    for name in files:
        path = os.path.join(root, name)
        try:
            about = os.lstat(path)
            if not stat.S_ISREG(about.st_mode) or about.st_ctime < BEGAN:
                continue
            with open(path, "rb") as file:
                looked["files"] += 1
                for piece in pieces(file):
                    look(path, piece)
        except OSError:
            pass

for path in ("/proc/mounts", "/proc/self/mountinfo", "/proc/keys", "/proc/cmdline", "/proc/net/unix"):
    try:
        look(path, open(path, "rb").read())
    except OSError:
        pass

for pid in filter(str.isdigit, os.listdir("/proc")):
    looked["processes"] += 1
    for name in ("environ", "cmdline", "comm", "cgroup", "mountinfo"):
        try:
            look(f"/proc/{pid}/{name}", open(f"/proc/{pid}/{name}", "rb").read())
        except OSError:
            pass
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            look(f"/proc/{pid}/fd", os.readlink(f"/proc/{pid}/fd/{descriptor}").encode())
    except OSError:
        pass
    if int(pid) == os.getpid():
        continue
    try:
        ranges = open(f"/proc/{pid}/maps").read().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            looked["memories"] += 1
            for line in ranges:
                bounds, rights = line.split()[:2]
                # What comes from a file was looked at there.
                if rights[:2] != "rw" or line.endswith((".so", "[vvar]")):
                    continue
                first, last = (int(b, 16) for b in bounds.split("-"))
                try:
                    memory.seek(first)
                    for piece in pieces(memory, last - first):
                        look(f"the memory of {pid}", piece)
                except (OSError, ValueError, OverflowError):
                    pass
    except OSError:
        pass

for command in (["git", "config", "--list", "--show-origin"], ["env"]):
    look(" ".join(command), subprocess.run(command, capture_output=True).stdout)

print(json.dumps({"looked": looked, "found": sorted(set(found))}))
