"""What the benches share: servers in a place of their own, the load, runs in network namespaces of
their own, and how figures are shown. Not a command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("BUILD", ROOT / "build")).resolve()
OUT = BUILD / "bench"
PORT = 8080
DROVER = str(BUILD / "drover")
HELLO = [str(BUILD / "servers/hello"), "--port", str(PORT)]


def die(text):
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def log_file():
    return OUT / "bench-server.log"


def until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            die(f"{what}; the servers' output: {log_file().read_text()}")
        time.sleep(0.02)


class Place:
    """Servers with a cgroup and a run folder of their own; all of it is gone on leaving."""

    def __init__(self):
        self.processes = []
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        mount = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
        if mount is None:
            die("cgroup v2 is not mounted")
        name = f"drover-bench-{os.getpid()}"
        self.cgroup = f"{mount}/{name}"
        os.environ.update(DROVER_CGROUP=self.cgroup, DROVER_RUN_DIR=f"/run/{name}",
                          DROVER_BPFFS=f"/sys/fs/bpf/{name}", DROVER_LOG_ROOT=f"/run/{name}/log")
        log_file().write_text("")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # this is what they are for
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if Path(self.cgroup).is_dir():
            os.rmdir(self.cgroup)
        shutil.rmtree(os.environ["DROVER_RUN_DIR"], ignore_errors=True)

    def spawn(self, command, before_exec=None, keep=(), **environment):
        with log_file().open("a") as log:
            self.processes.append(subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=keep,
                preexec_fn=before_exec, env=environment and {**os.environ, **environment} or None))

    def start_drover(self, workers, policy, command):
        self.spawn([DROVER, "run", "--name", "bench", "-n", str(workers), "--policy", policy, "--",
                    *command])
        until(lambda: self.status().get("ready") == workers, "drover is not ready")

    def status(self):
        done = subprocess.run([DROVER, "status", "bench", "--json"], capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}


def first_on_the_cpu():
    """The generator stands for clients on other machines: where it may, it does not wait for a CPU
    behind the servers."""
    command = ["chrt", "--fifo", "1"]
    allowed = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else []


def load_command(classes=(), **options):
    command = [*first_on_the_cpu(), str(OUT / "load"), "--port", str(PORT)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    for one in classes:
        command += ["--class", one]
    return command


def run_load(command, meanwhile=lambda: None):
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        meanwhile()
        out, err = load.communicate()
    finally:
        load.kill()
    if load.returncode != 0:
        die(f"the servers do not answer: {err}{log_file().read_text()}")
    return json.loads(out)


# --- A run in a network namespace of its own, so that no connection of a former run is left -------


def end_orderly_on_signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # not at once: what was started is ended


def arguments_of_one():
    """In the process that run_apart started: what it was given. Else None."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == ["--one"] else None


def run_apart(*arguments):
    """Calls this script as `--one ARGUMENTS`; what it prints is a line of JSON, which is returned."""
    run = subprocess.Popen(["unshare", "--net", "--", sys.executable, sys.argv[0], "--one",
                            json.dumps(arguments)], stdout=subprocess.PIPE, text=True)
    try:
        out, _ = run.communicate()
    except BaseException:  # the user has had enough: the run is to end its servers
        run.terminate()
        run.wait()
        raise
    if run.returncode != 0:
        die(f"the run {arguments} failed")
    return json.loads(out)


def need_root_and(*files):
    if os.getuid() != 0:
        die(f"must run as root: sudo scripts/{Path(sys.argv[0]).name}")
    for file in ("drover", "bench/load", *files):
        if not (BUILD / file).exists():
            die(f"{BUILD / file} is not built: make bench")


# --- Figures --------------------------------------------------------------------------------------


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="" if text else "\r", file=sys.stderr)


def spread(values):
    return {"median": median(values), "min": min(values), "max": max(values)}


def between(values, shown="{:,.0f}".format):
    if values["min"] == values["max"]:
        return shown(values["median"])
    return f"{shown(values['median'])} ({shown(values['min'])}–{shown(values['max'])})"


def write_json(name, **content):
    (OUT / name).write_text(json.dumps({
        "v": 1, "kernel": os.uname().release, "cpus": os.cpu_count(), **content}, indent=1))
    print(f"\n{OUT / name}")
