"""A Debian root file system with a real systemd in it, booted by systemd-nspawn in a network of
its own, which has only a loopback. All of it is gone afterwards: the mounts are in a mount
namespace that ends with the container, the directory and the control groups are removed.
"""

import atexit
import contextlib
import ctypes
import glob
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from harness import WAYSIDE, wait_for

# What nspawn forbids by itself and a real machine does not: to ask for the state of the clock.
# The container has control groups of its own, so that they can be removed, and a tmpfs on
# /run/systemd/nspawn, without which nspawn refuses ("Attempted to remove disk file system") where
# /run is a disk. The console is only written: what systemd says is found there when it fails.
BOOT = """
for h in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  if [ -e $h/cgroup.procs ]; then mkdir -p $h/$1 && echo $$ >$h/$1/cgroup.procs; fi
done
mkdir -p /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn || exit
exec systemd-nspawn -D "$2" -M "$1" --register=no --keep-unit --private-network --boot \\
  --console=read-only --system-call-filter='adjtimex clock_adjtime clock_adjtime64'
"""
FORBIDDEN = re.compile("not permitted|Permission denied|not implemented|not supported|Read-only")
# What has mounts of its own, and ends when this program does: the container by a shutdown, and
# mmdebstrap at once, with all that it has forked.
TIED = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount"]
TIED_ALL = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
            "--kill-child", "--mount-proc"]


def why_not():
    """Why a container cannot be booted here; empty when it can be tried."""
    for program in ("mmdebstrap", "systemd-nspawn", "setpriv", "nsenter"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if os.geteuid() != 0:
        return "only root can boot a container"
    done = subprocess.run([*TIED_ALL, "true"], capture_output=True, text=True)
    if done.returncode != 0:
        return f"no right to mount (CAP_SYS_ADMIN): {done.stderr.strip()}"
    if re.search(r"lib[at]san\.so", libraries()):
        return "a sanitizer's memory does not fit into the unit's limits"
    return ""


def libraries():
    return subprocess.run(["ldd", WAYSIDE], capture_output=True, text=True, check=True).stdout


def packages():
    """The packages that own the libraries that the program needs."""
    # Debian's packages say /lib or /usr/lib for the same directory.
    patterns = ["*" + path.removeprefix("/usr")
                for path in re.findall(r"=> (/\S+)", libraries())]
    found = subprocess.run(["dpkg-query", "-S", *patterns], capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"^([^:,\s]+)[^,\s]*: /", found, re.M)))


class ServiceRoot:
    """The root file system, and the container that runs in it."""

    def __init__(self, include=()):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        self.directory = tempfile.mkdtemp(prefix="wayside-service-")
        self.name = f"wayside-service-{os.getpid()}"
        self.path = os.path.join(self.directory, "root")
        self.console = os.path.join(self.directory, "console")
        self.nspawn = None
        self.init = 0  # the pid of the container's systemd, seen from outside
        atexit.register(self.close)  # an interrupted test does not come to its own end
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        names = ["systemd", "systemd-sysv", "dbus", *include, *packages()]
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        made = subprocess.run([*TIED_ALL, "mmdebstrap", "--quiet", "--variant=minbase",
                               "--include=" + ",".join(names), release, self.path],
                              capture_output=True, text=True)
        if made.returncode != 0:  # no mirror to be reached, or no right: nothing of ours ran yet
            self.close()
            raise unittest.SkipTest(f"mmdebstrap made no root here: {made.stderr[-500:]}")

    def boot(self):
        with open(self.console, "ab") as log:
            self.nspawn = subprocess.Popen([*TIED, "sh", "-c", BOOT, "sh", self.name, self.path],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.init = 0
        try:
            wait_for(self._booted, "systemd has booted")
        except AssertionError as e:
            if self.init or not str(e).startswith("not within"):
                raise
            # Not even a bare systemd comes up in this machine's containers.
            with open(self.console, encoding="utf-8", errors="replace") as log:
                raise unittest.SkipTest(f"{e}; its console: {log.read()[-500:]}") from e

    def _booted(self):
        if self.nspawn.poll() is not None:
            with open(self.console, encoding="utf-8", errors="replace") as log:
                why = f"systemd does not boot here: {log.read()[-2000:]}"
            # A kernel that does not let us, or a mistake of ours.
            raise (unittest.SkipTest if FORBIDDEN.search(why) else AssertionError)(why)
        pid = self.nspawn.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
                children = f.read().split()
            for child in children:
                with open(f"/proc/{child}/comm", encoding="ascii") as f:
                    if f.read() == "systemd\n":
                        self.init = int(child)
                        done = self.run("systemctl", "is-system-running", check=None)
                        return done.stdout.strip() in ("running", "degraded")
        return False

    def cut(self):
        """The power goes: all processes end at once with the first of their namespace."""
        os.kill(self.init, signal.SIGKILL)
        self._ended()

    def _ended(self):
        self.nspawn.wait(30)
        self.nspawn = None
        wait_for(self._ungrouped, "the container's processes have ended")

    def _ungrouped(self):
        groups = [*glob.glob(f"/sys/fs/cgroup/{self.name}"),
                  *glob.glob(f"/sys/fs/cgroup/*/{self.name}")]
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    return False  # somebody is still in it
        return True

    def close(self):
        try:
            if self.nspawn is not None:
                self.nspawn.terminate()  # nspawn has systemd shut down
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.nspawn.wait(20)
                if self.nspawn.poll() is None and self.init:
                    os.kill(self.init, signal.SIGKILL)
                self._ended()
        finally:
            wait_for(self._removed, f"{self.directory} is removed")

    def _removed(self):
        shutil.rmtree(self.directory, ignore_errors=True)  # who dies may still write into it
        return not os.path.exists(self.directory)

    def run(self, *args, check=0):
        """Runs a command inside; with `check`, fails unless it exits so."""
        inside = ["nsenter", "-t", str(self.init), "-a", "env", "-i",
                  "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", *args]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=90)
        if check is not None and done.returncode != check:
            raise AssertionError(f"{args}: exit {done.returncode}, not {check}\n{done.stdout}"
                                 f"{done.stderr}")
        return done

    @contextlib.contextmanager
    def network(self):
        """This thread is in the container's network; a socket made here stays in it."""
        def enter(file):
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        with open("/proc/thread-self/ns/net", "rb") as own:
            with open(f"/proc/{self.init}/ns/net", "rb") as inside:
                enter(inside)
            try:
                yield
            finally:
                enter(own)

    def write(self, path, text):
        path = self.path + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    def read(self, path):
        with open(self.path + path, encoding="utf-8") as f:
            return f.read()
