"""A real Flink cluster on this machine: a JobManager, TaskManagers, worker pools.

Everything listens on loopback. `python deploy/flink/cluster.py HOME` starts one, says
how to use it, and stops it on Ctrl-C; `make flink` makes HOME. Tests use `Cluster`, and
kill what they like of it.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
# Java's own packages that Flink and Beam's serialisers look into.
_OPENED = (
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.net",
    "java.io",
    "java.nio",
    "sun.nio.ch",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
)
_EXPORTED = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry")
# What every worker calls its pool; each TaskManager's hosts file says where that is.
_POOL_HOST = "worker-pool"
_POOL_PORT = 50123
_CONFIG = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1024m
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.memory.process.size: 1600m
taskmanager.memory.managed.size: 128m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.numberOfTaskSlots: 1
parallelism.default: {slots}
classloader.resolve-order: parent-first
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest_port}
io.tmp.dirs: {folder}/tmp
heartbeat.interval: 1000
heartbeat.timeout: 6000
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 5
restart-strategy.fixed-delay.delay: 10s
"""
_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""


class Cluster:
    """A cluster that lives as long as the `with` block.

    Args:
      home: What `make flink` installed.
      folder: For configuration, logs and temporary files.
      taskmanagers: How many, with one slot and one worker pool each.

    Attributes:
      url: Of the REST interface, which is the dashboard too.
      taskmanagers: Their processes.
      pools: The processes that start workers.
    """

    def __init__(self, home: Path, folder: Path, taskmanagers: int = 2) -> None:
        self._home = home.resolve()
        self._folder = folder.resolve()
        self._slots = taskmanagers
        self._rest_port, self._rpc_port = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{self._rest_port}"
        self.taskmanagers: list[subprocess.Popen[bytes]] = []
        self.pools: list[subprocess.Popen[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def beam_options(self) -> list[str]:
        """What makes a pipeline run here."""
        return [
            "--runner=FlinkRunner",
            "--flink_version=1.19",
            f"--flink_job_server_jar={self._job_server}",
            f"--flink_master={self.url}",
            f"--parallelism={self._slots}",
            "--environment_type=EXTERNAL",
            f"--environment_config={_POOL_HOST}:{_POOL_PORT}",
            # Less than the delay before a job is tried again: a worker that died is
            # forgotten by then, and the new try asks for a new one.
            "--environment_cache_millis=4000",
        ]

    @property
    def _job_server(self) -> Path:
        return next(self._home.glob("job-server/flink-job-server-*.jar"))

    def __enter__(self) -> "Cluster":
        (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        config = _CONFIG.format(
            folder=self._folder,
            slots=self._slots,
            rest_port=self._rest_port,
            rpc_port=self._rpc_port,
        )
        (self._folder / "config.yaml").write_text(config)
        (self._folder / "log4j2.properties").write_text(_LOGGING)
        try:
            self._start_java(
                "jobmanager",
                "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
                "JM",
                "--executionMode",
                "cluster",
            )
            for number in range(self._slots):
                self.start_pool(number)
                self.start_taskmanager(number)
            self.wait_for(self._has_all_slots, "slots of all TaskManagers", 90)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def start_taskmanager(self, number: int) -> None:
        """Starts one; also in the place of one that was killed."""
        hosts = self._folder / f"hosts-{number}"
        names = f"localhost {socket.gethostname()}"
        hosts.write_text(f"{_pool_address(number)} {_POOL_HOST}\n127.0.0.1 {names}\n")
        process = self._start_java(
            f"taskmanager-{number}",
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            "TM",
            jvm=[f"-Djdk.net.hosts.file={hosts}"],
        )
        self.taskmanagers[number : number + 1] = [process]

    def start_pool(self, number: int) -> None:
        """Starts the worker pool beside a TaskManager."""
        address = f"{_pool_address(number)}:{_POOL_PORT}"
        # A pool starts its workers as `python`: let that be this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = self._start(
            f"pool-{number}",
            [sys.executable, str(_HERE / "pool.py"), address],
            env=os.environ | {"PATH": path},
        )
        self.pools[number : number + 1] = [process]

    def workers(self) -> list[int]:
        """Process ids of the Python workers of all pools."""
        return [pid for pool in self.pools for pid in _children(pool.pid)]

    def get(self, path: str) -> Any:
        """What the REST interface answers, such as to `/jobs/overview`."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def wait_for(
        self, condition: Callable[[], bool], what: str, seconds: float
    ) -> None:
        """Until something is so.

        Raises:
          TimeoutError: It was not, in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if condition():
                    return
            time.sleep(0.2)
        raise TimeoutError(
            f"Waited {seconds:.0f} s for {what}. Logs: {self._folder}/*.log"
        )

    def _has_all_slots(self) -> bool:
        return bool(self.get("/overview")["slots-total"] == self._slots)

    @functools.cached_property
    def _jars(self) -> list[str]:
        lib = self._home / "dist/pyflink/lib"
        flink = [*lib.glob("flink-dist-*.jar"), *sorted(lib.glob("log4j-*.jar"))]
        # Beam is Flink's own here, not the job's: only so does a worker outlive the
        # stage that started it. A pipeline has hundreds of stages, and a worker takes
        # seconds to start.
        return [str(jar) for jar in (*flink, self._job_server)]

    @functools.cached_property
    def _memory(self) -> dict[str, tuple[list[str], list[str]]]:
        """For JM and TM, what Java is told of memory, and what Flink is."""
        # Without Flink's own scripts, this is who shares out the memory.
        utilities = self._home / "dist/pyflink/bin/bash-java-utils.jar"
        shares = {}
        for kind in ("JM", "TM"):
            asked = subprocess.run(
                [
                    "java",
                    "-cp",
                    os.pathsep.join([*self._jars, str(utilities)]),
                    "org.apache.flink.runtime.util.bash.BashJavaUtils",
                    f"GET_{kind}_RESOURCE_PARAMS",
                    "--configDir",
                    str(self._folder),
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            flags, dynamic = [
                line.partition(":")[2].split()
                for line in asked.stdout.splitlines()
                if line.startswith("BASH_JAVA_UTILS_EXEC_RESULT:")
            ]
            shares[kind] = flags, dynamic
        return shares

    def _start_java(
        self, name: str, main: str, kind: str, *arguments: str, jvm: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        memory, dynamic = self._memory[kind]
        command = [
            "java",
            *memory,
            *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED),
            *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTED),
            f"-Dlog4j.configurationFile=file:{self._folder}/log4j2.properties",
            *jvm,
            "-cp",
            os.pathsep.join(self._jars),
            main,
            "--configDir",
            str(self._folder),
            *dynamic,
            *arguments,
        ]
        return self._start(name, command, env=dict(os.environ))

    def _start(
        self, name: str, command: Sequence[str], env: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=env, start_new_session=True
            )
        self._processes.append(process)
        return process


def _pool_address(number: int) -> str:
    """All of 127.0.0.0/8 is this machine."""
    return f"127.0.0.{number + 2}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


def main() -> None:
    """Runs a cluster until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path, help="what `make flink` installed")
    parser.add_argument("--taskmanagers", type=int, default=2)
    options = parser.parse_args()
    folder = options.home / "running"
    with Cluster(options.home, folder, options.taskmanagers) as cluster:
        print(f"Dashboard: {cluster.url}\nBeam options:")
        print(" \\\n".join(f"  {option}" for option in cluster.beam_options))
        print("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
