"""What the bench of peers measures: each function takes a place where a peer serves, the name of the
server, the case and the plan, and returns figures. Not a command."""

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bench_common import FILES, PORT, die, load_command, run_load, until
from bench_peers import RELOADS, REPLACING, memory_kb

CPUS = os.cpu_count()
NEW, KEPT = "new connections", "keep-alive"
RATES = {"hello": 3000, "blocking": 1500, "node": 1000, "express": 500, "nginx": 3000}  # a second
KEPT_CONNECTIONS = 64

# Mixed service times. What load 1 is: of blocking, each of 8 workers is occupied for so long; of node
# and express the CPUs are the limit, and measure_capacity asks what a request takes of them.
MIXED_CLASSES = {"blocking": ("short:99.5:/work?ms=2", "long:0.5:/work?ms=120")}
NODE_CLASSES = ("short:98:/", "long:2:/work?burn_ms=20")
CAPACITY_OF_BLOCKING = 8 / (0.995 * 0.002 + 0.005 * 0.120)

CAPACITY_RATE = 500
HUNG_RATE, PATIENCE_MS, QUICK_PATIENCE_MS = 750, 2000, 20_000
SLOW_RATE, HOGS = 400, 3
HOLD_RATE, HELD_BY_ONE = 2000, 8000
RELOAD_RATE, KILL_RATE, KILL_EACH_S = 500, 500, 2


class Plan(NamedTuple):
    seconds: float  # of load
    seed: int
    quick: bool  # only whether it goes: with little load, since the machine may be busy
    capacity: float  # requests a second of mixed service times that are load 1

    def load(self, rate, classes=("all:1:/",), kept=False, **options):
        if kept:
            options.update(mode="keep-alive", connections=KEPT_CONNECTIONS)
        return load_command(classes, rate=f"{rate / (5 if self.quick else 1):.1f}",
                            **{"seconds": self.seconds, "seed": self.seed, **options})

    def before_the_act(self):
        time.sleep(self.seconds / 4 if self.quick else 1)


def run_and_count_cpu(place, command):
    """What the load says, and the CPU time of the peer and of its clients, in µs."""
    def clients():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (used.ru_utime + used.ru_stime) * 1e6

    peer_before, clients_before = place.cpu_us(), clients()
    result = run_load(command)
    return result, place.cpu_us() - peer_before, clients() - clients_before


def measure_cpu(place, server, case, plan):
    others = place.others_cpu_us()
    result, peer, clients = run_and_count_cpu(place, plan.load(RATES[server], kept=case == KEPT))
    others = place.others_cpu_us() - others
    answered = result["ok"]
    return {"peer_us": peer / answered, "others_us": others / answered, "all_us": (peer + clients) / answered,
            "p50_us": result["p50_us"], "p99_us": result["p99_us"], "failed": result["failed"],
            "answered": answered, "late_us": result["late_p99_us"]}


def measure_capacity(place, server, case, plan):
    result, peer, clients = run_and_count_cpu(place, plan.load(CAPACITY_RATE, NODE_CLASSES))
    return {"per_s": CPUS * 1e6 / ((peer + clients) / result["ok"])}


def measure_wrk(place, server, case, plan):
    close = ["--header", "Connection: close"] if case == NEW else []
    done = subprocess.run(["wrk", "--threads", "1", "--connections", str(KEPT_CONNECTIONS),
                           "--duration", f"{max(1, round(plan.seconds))}s", *close,
                           f"http://127.0.0.1:{PORT}/"], capture_output=True, text=True)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if not rate:
        die(f"wrk says nothing of {place.peer}: {done.stdout}{done.stderr}")
    errors = re.search(r"Socket errors: (.*)", done.stdout)
    failed = sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0
    return {"per_s": float(rate[1]), "failed": failed}


def latencies(result, name):
    return {**{figure: result["classes"][name][figure] for figure in ("p50_us", "p90_us", "p99_us")},
            "sent": result["sent"], "answered": result["ok"], "not_answered": result["failed"],
            "late_us": result["late_p99_us"]}


def measure_mixed(place, server, case, plan):
    result = run_load(plan.load(float(case.split()[1]) * plan.capacity,
                                MIXED_CLASSES.get(server, NODE_CLASSES)))
    return latencies(result, "short")


def measure_hung(place, server, case, plan):
    """In --quick it hangs only for a moment, and there is time for all to be answered."""
    victim = place.worker_pids()[0]

    def stop_it():
        plan.before_the_act()
        os.kill(victim, signal.SIGSTOP)
        if plan.quick:
            time.sleep(plan.seconds / 2)
            os.kill(victim, signal.SIGCONT)

    try:
        patience = QUICK_PATIENCE_MS if plan.quick else PATIENCE_MS
        result = run_load(plan.load(HUNG_RATE, timeout_ms=patience), stop_it)
    finally:
        os.kill(victim, signal.SIGCONT)
    stuck = result["errors"].get("timeout", 0)
    return {"sent": result["sent"], "answered": result["ok"], "stuck": stuck,
            "failed": result["failed"] - stuck, "p99_us": result["p99_us"]}


def pin(pid, cpus):
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cpus)


def measure_slow(place, server, case, plan):
    """The victim shares the first CPU with the hogs; the others have the rest to themselves."""
    every = os.sched_getaffinity(0)
    first = {min(every)}
    victim, *others = place.worker_pids()
    hogs = [place.spawn(["sh", "-c", "while :; do :; done"]) for _ in range(HOGS)]
    try:
        for pid in (victim, *(hog.pid for hog in hogs)):
            pin(pid, first)
        for pid in others:
            pin(pid, every - first or every)
        result = run_load(plan.load(SLOW_RATE, ("all:1:/work?burn_ms=2",)))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        for pid in (victim, *others):
            pin(pid, every)
    return latencies(result, "all")


def measure_balance(place, server, case, plan):
    """Several generators, each a while after the other, for each may have only so many files open."""
    connections = int(case.replace(",", ""))
    running, counts = [], {}
    try:
        for begun in range(0, connections, HELD_BY_ONE):
            time.sleep(HELD_BY_ONE / HOLD_RATE if begun else 0)
            command = plan.load(HOLD_RATE, mode="hold", seed=plan.seed + begun,
                                connections=min(HELD_BY_ONE, connections - begun),
                                seconds=connections / HOLD_RATE)
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True))
        results = [json.loads(each.communicate()[0]) for each in running]
    finally:
        for each in running:
            each.kill()
    for result in results:
        for worker, count in result["workers"].items():
            counts[worker] = counts.get(worker, 0) + count
    shares = [*counts.values(), *[0] * (place.workers - len(counts))]
    return {"most": max(shares), "least": min(shares), "difference": max(shares) - min(shares),
            "wanted": connections,
            "held": sum(result["held"] for result in results)}


def can_hold(peer, case):
    """A proxy has two files for each connection."""
    return peer != "haproxy-tcp" or 2 * int(case.replace(",", "")) + 500 < FILES


def measure_reload(place, server, case, plan):
    took = []

    def reload():
        plan.before_the_act()
        before, start = place.count_listening(), time.monotonic()
        done = subprocess.run(RELOADS[place.peer](place), capture_output=True, text=True)
        if done.returncode != 0:
            die(f"{place.peer} does not reload: {done.stdout}{done.stderr}")
        until(lambda: place.count_listening() >= before + place.workers, "no new workers")
        took.append(time.monotonic() - start)

    result = run_load(plan.load(RELOAD_RATE, kept=case == KEPT), reload)
    return {"sent": result["sent"], "answered": result["ok"], "lost": result["failed"],
            "p99_us": result["p99_us"], "took_s": took[0]}


def measure_kill(place, server, case, plan):
    """Where nobody replaces it, just one: or there would be none at the end."""
    kills = 1 if plan.quick or place.peer not in REPLACING else int(plan.seconds / KILL_EACH_S)
    replaced_ms = []

    def kill_some():
        for _ in range(kills):
            plan.before_the_act()
            before, start = place.count_listening(), time.monotonic()
            os.kill(place.worker_pids()[0], signal.SIGKILL)
            if place.peer in REPLACING:
                until(lambda: place.count_listening() > before, "nobody replaces the killed one",
                      pause=0.002)
                replaced_ms.append((time.monotonic() - start) * 1000)
            if not plan.quick:
                time.sleep(max(0, KILL_EACH_S - 1 - (time.monotonic() - start)))

    result = run_load(plan.load(KILL_RATE), kill_some)
    figures = {"sent": result["sent"], "answered": result["ok"], "lost": result["failed"],
               "p99_us": result["p99_us"], "kills": kills}
    if replaced_ms:
        figures["replaced_ms"] = statistics.median(replaced_ms)
    return figures


def measure_start(place, server, case, plan):
    figures = dict(place.began)
    if memory := [memory_kb(pid) for pid in place.other_pids()]:
        figures.update(master_kb=max(memory)[0], master_anon_kb=max(memory)[1],
                       others_kb=sum(rss for rss, _ in memory),
                       others_anon_kb=sum(anon for _, anon in memory))
    return figures


def measure_growth(place, server, case, plan):
    return {**measure_start(place, server, case, plan),
            **measure_cpu(place, server, NEW, plan)}
