"""What the benches share: servers in a place of their own, the load, runs in network namespaces of
their own, and how figures are shown. Not a command."""

import contextlib
import fcntl
import json
import math
import os
import resource
import shutil
import signal
import socket
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
FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # that a process may have open


def die(text):
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def node_server(program, port=PORT):
    return ["node", str(ROOT / "tests/bench" / program), str(port)]


def folder():
    """Of the run that this process is."""
    return Path(f"/tmp/drover-bench-{os.getpid()}")


def log_file():
    return folder() / "servers.log"


def until(condition, what, seconds=60, pause=0.02):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            die(f"{what}; the servers' output: {log_file().read_text()}")
        time.sleep(pause)


class Place:
    """Servers with a cgroup and folders of their own; all of it is gone on leaving."""

    def __init__(self):
        self.processes = []
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        mount = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
        if mount is None:
            die("cgroup v2 is not mounted")
        name = f"drover-bench-{os.getpid()}"
        self.cgroup = Path(mount, name)
        os.environ.update(DROVER_CGROUP=str(self.cgroup), DROVER_RUN_DIR=f"/run/{name}",
                          DROVER_BPFFS=f"/sys/fs/bpf/{name}", DROVER_LOG_ROOT=f"/run/{name}/log",
                          NODE_PATH=str(BUILD / "node/node_modules"))
        (self.cgroup / "servers").mkdir(parents=True)
        folder().mkdir()
        log_file().write_text("")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        # Clients with one address need many ports.
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65535\n")

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
        self.end_all_that_is_left()
        for each in (folder(), os.environ["DROVER_RUN_DIR"], os.environ["DROVER_BPFFS"]):
            shutil.rmtree(each, ignore_errors=True)

    def end_all_that_is_left(self):
        """Also those that left their parents, as PM2's master does."""
        (self.cgroup / "cgroup.kill").write_text("1\n")
        until(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text(),
              "processes of the bench do not end")
        for each, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(each)

    def spawn(self, command, before_exec=lambda: None, keep=(), **environment):
        """Each process and what it starts is in the cgroup of this place."""
        def begin():
            (self.cgroup / "servers/cgroup.procs").write_text("0\n")
            before_exec()

        with log_file().open("a") as log:
            self.processes.append(subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=keep,
                preexec_fn=begin, env=environment and {**os.environ, **environment} or None))
        return self.processes[-1]

    def start_on_one_socket(self, workers, command):
        listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)

        def pass_it():  # as systemd does
            os.dup2(listener.fileno(), 3, inheritable=True)
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))

        for _ in range(workers):
            self.spawn(command, before_exec=pass_it, keep=(3,))
        listener.close()

    def start_node_cluster(self, workers, policy, command):
        node, *program = command
        self.spawn([node, str(ROOT / "tests/bench/cluster.js"), str(workers), *program],
                   NODE_CLUSTER_SCHED_POLICY=policy)

    def start_drover(self, workers, policy, command):
        self.spawn_drover(workers, policy, command)
        until(lambda: self.status().get("ready") == workers, "drover is not ready")

    def spawn_drover(self, workers, policy, command, options=()):
        self.spawn([DROVER, "run", "--name", "bench", "-n", str(workers), "--policy", policy,
                    *options, "--", *command])

    def wait_until_listening(self, workers, mark="listening"):
        until(lambda: log_file().read_text().count(mark) >= workers, "not all listen")

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


# Of the scheduler: a like share of the CPUs for each session, whatever number of processes it has.
AUTOGROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")


@contextlib.contextmanager
def sysctl(path, value):
    """With that value of a kernel setting, where there is it; afterwards it is as it was. One bench at
    a time: they would spoil each other's figures, and the second would take for the old value what the
    first has set."""
    lock = open("/run/drover-bench.lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        die("another bench is under way on this machine: wait for it")
    if not path.exists():
        yield
        return
    was = path.read_text()
    path.write_text(f"{value}\n")
    try:
        yield
    finally:
        path.write_text(was)


def without_autogroups():
    """Each of drover's workers has a session of its own, and those of most others share one: where
    there is more to do than CPUs, drover's would get more of them for that alone."""
    return sysctl(AUTOGROUPS, 0)


# --- A run in a network namespace of its own, so that no connection of a former run is left -------


def end_orderly_on_signals():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # not at once: what was started is ended


def arguments_of_one():
    """In the process that run_apart started: what it was given. Else None."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == ["--one"] else None


class Apart:
    """This script, called as `--one ARGUMENTS`. It prints lines of JSON, by itself or for each line that
    it reads, and ends when there is no more of them."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self.process = subprocess.Popen(
            ["unshare", "--net", "--", sys.executable, sys.argv[0], "--one", json.dumps(arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if failure:  # as where the user has had enough: the run is to end its servers
            self.process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.process.wait() != 0 and not failure:
            die(f"the run {self.arguments} failed")

    def ask(self, line):
        with contextlib.suppress(BrokenPipeError):  # no answer comes then
            print(line, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:  # it has said why
            die(f"the run {self.arguments} failed")
        return json.loads(line)


def run_apart(*arguments):
    with Apart(*arguments) as run:
        return run.answer()


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


def confidence(values):
    """The 95 % confidence interval of their median, by ranks, whatever the distribution; nothing where
    they are too few for one."""
    n, rank, below = len(values), 0, 0.0
    while rank < n and 2 * (below + math.comb(n, rank) / 2**n) <= 0.05:
        below += math.comb(n, rank) / 2**n
        rank += 1
    ordered = sorted(values)
    return {"low": ordered[rank - 1], "high": ordered[n - rank]} if rank else {}


def between(values, shown="{:,.0f}".format):
    if values["min"] == values["max"]:
        return shown(values["median"])
    return f"{shown(values['median'])} ({shown(values['min'])}–{shown(values['max'])})"


def write_json(name, **content):
    (OUT / name).write_text(json.dumps({
        "v": 1, "kernel": os.uname().release, "cpus": os.cpu_count(), **content}, indent=1))
    print(f"\n{OUT / name}")
