"""A real SLURM of one machine for tests: two GPUs that are none, nothing left behind."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlflow_server import free_port
from project import BIN

PACKAGES = "slurmctld slurmd slurm-client munge"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
SBIN = "/usr/sbin"

# `urgent` preempts `gpu`. A requeued job may start again when its old credential is void.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
KillWait=3
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
MinJobAge=600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:2
PartitionName=gpu Nodes={host} Default=YES MaxTime=10:00:00 PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=10:00:00 PriorityTier=2
"""
# Any character device will do: SLURM counts them and names them in CUDA_VISIBLE_DEVICES.
GENERIC_RESOURCES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def missing() -> str | None:
    """Return why there can be no SLURM here, or None."""
    found = {name: shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") for name in PROGRAMS}
    absent = [name for name, path in found.items() if path is None]
    return f"no {', '.join(absent)} (apt-get install {PACKAGES})" if absent else None


class Slurm:
    """One controller and one node on loopback, on ports and in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self._daemons: list[subprocess.Popen[bytes]] = []
        folder.chmod(0o755)  # munged wants a socket that everybody can reach
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(parents=True)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        (folder / "gres.conf").write_text(GENERIC_RESOURCES)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                host=self.host,
                user=getpass.getuser(),
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        # The executor plugin removes SLURM_CONF from the environment of the steps it starts.
        srun = folder / "bin/srun"
        real = shutil.which("srun")
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {real} "$@"\n')
        srun.chmod(0o755)

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    def environment(self) -> dict[str, str]:
        """Return what a process needs to submit to this SLURM."""
        return {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}:{SBIN}",
        }

    def start(self) -> None:
        """Start the daemons and wait for the node; raises RuntimeError if it does not come."""
        munge = f"{self.folder}/munge"
        files = [f"--{name}-file={munge}.{name}" for name in ("key", "pid", "log", "seed")]
        self._launch("munged", "--foreground", f"--socket={munge}.socket", *files)
        self._launch("slurmctld", "-D")
        self._launch("slurmd", "-D")
        deadline = time.monotonic() + 30
        while self.ask("sinfo", "--noheader", "--format=%T", check=False).strip() != "idle":
            if time.monotonic() > deadline:
                logs = sorted(self.folder.glob("*.out"))
                raise RuntimeError("\n".join(path.read_text()[-2000:] for path in logs))
            time.sleep(0.2)

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.ask("scancel", "--user", getpass.getuser(), check=False)
        deadline = time.monotonic() + 10
        while self.jobs() and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str, check: bool = True) -> str:
        """Run a SLURM command and return what it prints."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            check=check,
        )
        return done.stdout

    def lose_node(self) -> None:
        """Let everything that runs on the node die with it; an empty one comes back."""
        change = ("scontrol", "update", f"nodename={self.host}", "reason=test")
        self.ask(*change, "state=down")
        # The daemon of a step has a socket here.
        while list(self.folder.glob(f"spool/{self.host}_*")):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    variables = (process / "environ").read_text().split("\0")
                    in_job = any(variable.startswith("SLURM_JOB_ID=") for variable in variables)
                    if in_job and f"SLURM_CONF={self.configuration}" in variables:
                        os.kill(int(process.name), signal.SIGKILL)
            time.sleep(0.1)
        self.ask(*change, "state=resume")

    def jobs(self) -> dict[str, str]:
        """Return the state of every job that waits or runs, by its id."""
        lines = self.ask("squeue", "--noheader", "--format=%i %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def job(self, number: str) -> Mapping[str, str]:
        """Return what `scontrol` tells about a job, by SLURM's names."""
        words = self.ask("scontrol", "show", "job", "--details", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def _launch(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **self.environment()},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
