"""Programs that the bench starts, pinned to cores; whatever way the bench ends, they end with it."""

import contextlib
import os
import signal
import socket
import subprocess
import time

from . import machine

PATIENCE = 20.0


class Failed(Exception):
    """A program of the bench did not do what it should."""


def pinned(cores):
    """Run between fork and exec of a child."""

    def prepare():
        os.sched_setaffinity(0, cores)

    return prepare


@contextlib.contextmanager
def running(command, cores, log, port=None):
    """Runs a program, gives its pid as soon as it accepts on `port`, and ends it with all its children."""
    with open(log, "ab") as output:
        # A session of its own: Ctrl-C reaches the bench alone, which then ends everything by its pid.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=pinned(cores), start_new_session=True,
        )
    try:
        if port is not None:
            wait_for_port(child, port, command, log)
        yield child.pid
    finally:
        end(child)


def wait_for_port(child, port, command, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Failed(f"{command[0]} does not accept connections; see {log.name} among the results")


def end(child):
    """A friendly word, which nginx's master hands on to its workers; then, soon, the other one."""
    everybody = machine.tree(child.pid)
    if child.poll() is None:
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.3)
    for pid in everybody:
        with contextlib.suppress(ProcessLookupError):
            if pid == child.pid and child.poll() is not None:
                continue
            if pid != child.pid and not is_orphan_of(pid, child.pid):
                continue
            os.kill(pid, signal.SIGKILL)
    child.wait()


def is_orphan_of(pid, parent):
    """Whether a former child is still there: its session is the one that was made for its parent."""
    try:
        return os.getsid(pid) == parent
    except ProcessLookupError:
        return False


def run(command, cores, seconds):
    """Runs a program to its end and gives what it printed."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=pinned(cores), start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=seconds + PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} takes longer than {seconds + PATIENCE:.0f} s") from error
    finally:
        if child.poll() is None:
            end(child)
    if child.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {child.returncode}\n{out}{err}")
    return out


@contextlib.contextmanager
def started(command, cores):
    """Runs a program beside the bench; its output can be read when it has ended."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=pinned(cores), start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            end(child)
