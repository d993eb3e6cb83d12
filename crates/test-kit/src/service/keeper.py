"""Runs one service for tests, and ends it when nobody holds its lease any more.

A process of its own, because a test can be killed: the kernel then gives up the test's lock on the lease, and that is
seen here. (A signal at the parent's death would be simpler, but it comes when the parent's *thread* ends.)

Arguments: the service's directory, seconds to wait for a next user, the signal that ends the service, what to remove
then (or an empty string), whether the service gets a process namespace (or an empty string), the command.
"""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

STEP = 0.1
PATIENCE = 30
CLONE_NEWPID = 0x20000000

directory, linger, number, remove, alone, *command = sys.argv[1:]


def stop(*_):
    sys.exit(0)


for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(each, stop)

# The next child is then the first process of a namespace: when it ends, the kernel ends everything that it started.
if alone and ctypes.CDLL(None).unshare(CLONE_NEWPID) != 0:
    sys.exit("cannot make a process namespace")
lease = open(os.path.join(directory, "lease"))
with open(os.path.join(directory, "log"), "ab", buffering=0) as log:
    service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
with open(os.path.join(directory, "pid"), "w") as file:
    file.write(str(service.pid))
try:
    unused = 0.0
    while unused <= float(linger):
        time.sleep(STEP)
        if service.poll() is not None:
            sys.exit(1)
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unused = 0.0
            continue
        unused += STEP
        if unused <= float(linger):
            fcntl.flock(lease, fcntl.LOCK_UN)
    # The lock is held to the end, so that the next user waits for it instead of meeting half a service.
finally:
    if service.poll() is None:
        service.send_signal(int(number))
        try:
            service.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()
    os.remove(os.path.join(directory, "pid"))
    if remove and not os.path.exists(os.path.join(directory, "again")):
        shutil.rmtree(remove, ignore_errors=True)
