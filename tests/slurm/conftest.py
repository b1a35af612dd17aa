"""A Slurm of its own for the tests: one node on loopback, two fake GPUs, no systemd, no cgroups.

Needs root and Debian's slurm-wlm, slurm-client and munge. Everything lives in one folder under
/tmp and every daemon is a child of pytest, so that nothing is left behind and a Slurm of the
machine, if there is one, is not touched. CPUs, memory and GPUs of the node are declared, not
found: what the profile asks for fits any machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CPUS, GPUS = 2, 2
AS_MUNGE = ("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups")


class Slurm:
    """A running one-node Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen] = []
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start munged, slurmctld and slurmd, and wait until the node takes jobs."""
        self._start_munged()
        _fake_gpus(self.folder)
        _write_configuration(self.folder)
        _wrap_srun(self.folder)
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-c")
        self._wait(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle", "the node is not idle")

    def stop(self) -> None:
        """Cancel all jobs, wait for their processes, stop the daemons, delete the folder."""
        try:
            if len(self.daemons) == 3:
                for job in self.jobs():
                    self.ask("scancel", job["JobId"])
                self._wait(lambda: not self.ask("squeue", "-h"), "jobs do not end")
        finally:
            for daemon in reversed(self.daemons):
                _end(daemon)
            shutil.rmtree(self.folder)

    def ask(self, *command: str) -> str:
        """Return what a Slurm command prints, "" while the controller does not answer."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip()

    def jobs(self) -> list[dict[str, str]]:
        """Return the fields of every job so far, finished ones too, in order of submission."""
        lines = self.ask("scontrol", "--oneliner", "show", "jobs").splitlines()
        fields = [dict(f.split("=", 1) for f in line.split() if "=" in f) for line in lines]
        return sorted((f for f in fields if "JobId" in f), key=lambda f: int(f["JobId"]))

    def _start_munged(self) -> None:
        """Start munged as user munge, in a folder of its own."""
        folder = self.folder / "munge"
        folder.mkdir()
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(stat.S_IRUSR)
        for path in (folder, folder / "key"):
            shutil.chown(path, "munge", "munge")
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        files = [f"--{option}={folder / name}" for option, name in names.items()]
        self._daemon(*AS_MUNGE, "munged", "--foreground", f"--seed-file={folder / 'seed'}", *files)
        self._wait((folder / "socket").exists, "munged does not start")

    def _daemon(self, *command: str) -> None:
        with open(self.folder / "daemons.log", "a") as log:
            daemon = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.daemons.append(daemon)

    def _wait(self, ready, complaint: str, *, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > until:
                raise RuntimeError(f"{complaint}:\n{self._logs()}")
            time.sleep(0.2)

    def _logs(self) -> str:
        return "\n".join(p.read_text()[-2000:] for p in sorted(self.folder.rglob("*log")))


def _fake_gpus(folder: Path) -> None:
    """Make null devices that Slurm takes for GPUs; it refuses plain files."""
    for number in range(GPUS):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def _write_configuration(folder: Path) -> None:
    """Write slurm.conf and gres.conf; memory is enforced by polling, since there are no cgroups."""
    host = socket.gethostname().split(".")[0]
    controller, node = _free_ports(2)
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    (folder / "slurm.conf").write_text(
        f"""ClusterName=mneme
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
CommunicationParameters=NoAddrCache
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=7200
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=256000 Gres=gpu:{GPUS} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )


def _wrap_srun(folder: Path) -> None:
    """Let srun find slurm.conf: the plugin takes SLURM_CONF out of its environment."""
    program = folder / "bin" / "srun"
    program.parent.mkdir()
    found = shutil.which("srun")
    program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {found} "$@"\n')
    program.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    for one in with_sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


def _end(daemon: subprocess.Popen) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def why_not() -> str:
    """Say why Slurm cannot be started here, "" when it can."""
    if os.geteuid() != 0:
        return "starting a Slurm of its own needs root"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm slurm-client munge)"
    with tempfile.TemporaryDirectory(prefix="mneme-slurm-", dir="/tmp") as folder:
        try:  # root of a user namespace, or without some capabilities, may be neither
            os.mknod(Path(folder) / "gpu", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            subprocess.run([*AS_MUNGE, "true"], check=True, capture_output=True)
            shutil.chown(folder, "munge", "munge")
        except (OSError, LookupError, subprocess.CalledProcessError) as error:
            return f"root may not make devices or become user munge here ({error})"
    return ""


@pytest.fixture(scope="session")
def slurm():
    """Return a running Slurm; everything it started is gone afterwards."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mneme-slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munged runs as another user
    made = Slurm(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
