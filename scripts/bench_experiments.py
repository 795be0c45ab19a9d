"""What the bench of peers runs: the servers and peers of each experiment, its cases, and how its figures
are shown. What each is for: scripts/bench. Not a command."""

from typing import Callable, NamedTuple

from bench_common import between
from bench_measures import (KEPT, NEW, measure_balance, measure_cpu, measure_growth, measure_hung,
                            measure_kill, measure_mixed, measure_reload, measure_slow, measure_start,
                            measure_wrk)
from bench_peers import DROVER_EACH

NODE_PEERS = ("cluster-rr", "cluster-shared", "pm2", "haproxy", "nginx-proxy")
HELLO_PEERS = ("plain", "shared", "haproxy", "nginx-proxy")
NGINX = ("nginx-reuseport", "nginx-accept", "drover")


class Experiment(NamedTuple):
    title: str
    peers: dict         # server → those that it runs behind
    cases: tuple
    measure: Callable
    columns: dict       # title → figure, or (figure, unit)
    seconds: float = 3  # of load
    ratios: tuple = ()  # the figures that are compared with those of the
    base: str = "drover"
    answers: str = "answered"  # the figure that is above zero where the peer has answered
    of: str = ""        # the figure that this is to be most of
    turns: int = 0      # in each repetition, of peers that are up at the same time; else one by one
    together: str = ""  # with one start all its cases, and those of others with the same word
    workers: Callable = lambda server, case: 4


def ms(us):
    return f"{us / 1000:,.2f}" if us < 10_000 else f"{us / 1000:,.0f}"


def shown_ratio(ratio):
    if "low" in ratio:
        return f"{ratio['median']:.3f} (95 %: {ratio['low']:.3f}–{ratio['high']:.3f})"
    return between(ratio, "{:.2f}".format)


def one_digit(value):
    return f"{value:,.1f}"


def mb(kb):
    return f"{kb / 1024:,.1f}"


LATENCIES = {"p50 ms": ("p50_us", ms), "p90 ms": ("p90_us", ms), "p99 ms": ("p99_us", ms),
             "not answered": "not_answered", "late ms": ("late_us", ms)}
MEMORY = {"master RSS MB": ("master_kb", mb), "RssAnon MB": ("master_anon_kb", mb),
          "all RSS MB": ("others_kb", mb), "all RssAnon MB": ("others_anon_kb", mb)}
LOADS = tuple(f"load {load}" for load in (0.5, 0.7, 0.9))

CPU = {"peer µs": ("peer_us", one_digit), "not workers µs": ("others_us", "{:.2f}".format),
       "with clients µs": ("all_us", one_digit), "p50 ms": ("p50_us", ms), "p99 ms": ("p99_us", ms),
       "failed": "failed"}

EXPERIMENTS = {
    "cost": Experiment(
        "what steering costs", {"hello": ("plain", *DROVER_EACH)}, (NEW,), measure_cpu, CPU,
        seconds=1, ratios=("peer_us", "all_us"), base="plain", turns=30),
    "start": Experiment(
        "start, and memory of what is not a worker", {
            "hello": (*HELLO_PEERS, "drover"), "express": (*NODE_PEERS, "drover")},
        ("4 workers",), measure_start, {
            "first answer ms": "first_answer_ms", "all serve ms": "ready_ms", **MEMORY},
        ratios=("ready_ms",), answers="first_answer_ms", together="requests"),
    "cpu": Experiment(
        "CPU for each request", {
            "hello": (*HELLO_PEERS, "drover"), "node": (*NODE_PEERS, "drover"),
            "express": (*NODE_PEERS, "drover"), "nginx": NGINX},
        (NEW, KEPT), measure_cpu, CPU, ratios=("peer_us",), together="requests"),
    "wrk": Experiment(
        "requests a second, by wrk", {
            "hello": (*HELLO_PEERS, "drover"), "node": (*NODE_PEERS, "drover"),
            "express": (*NODE_PEERS, "drover"), "nginx": NGINX},
        (NEW, KEPT), measure_wrk, {"requests/s": "per_s", "failed": "failed"},
        ratios=("per_s",), answers="per_s", together="requests"),
    "mixed": Experiment(
        "mixed service times: the short requests", {
            "blocking": (*HELLO_PEERS, "haproxy-queue", *DROVER_EACH),
            "node": (*NODE_PEERS, *DROVER_EACH, "drover shared"), "express": (*NODE_PEERS, "drover")},
        LOADS, measure_mixed, LATENCIES, seconds=8, ratios=("p99_us",), of="sent", together="mixed",
        workers=lambda server, case: 8 if server == "blocking" else 4),
    "hung": Experiment(
        "1 of 4 workers hangs", {
            "hello": (*HELLO_PEERS, *DROVER_EACH), "node": (*NODE_PEERS, "drover"), "nginx": NGINX},
        ("SIGSTOP",), measure_hung, {
            "sent": "sent", "answered": "answered", "failed": "failed", "stuck": "stuck",
            "p99 ms": ("p99_us", ms)},
        seconds=6, ratios=("p99_us",)),
    "slow": Experiment(
        "1 of 4 workers shares its CPU with three other programs", {
            "blocking": (*HELLO_PEERS, "haproxy-queue", "drover"), "node": (*NODE_PEERS, "drover")},
        ("2 ms of CPU",), measure_slow, LATENCIES, seconds=6, ratios=("p99_us",)),
    "balance": Experiment(
        "long-lived connections", {
            "hello": ("plain", "shared", "haproxy-tcp", *DROVER_EACH),
            "node": ("cluster-rr", "cluster-shared", "pm2", "haproxy-tcp", "drover")},
        ("1,024", "20,000"), measure_balance, {
            "most": "most", "least": "least", "difference": "difference", "held": "held"},
        answers="held", of="wanted"),
    "reload": Experiment(
        "all workers are replaced", {
            "express": ("pm2", "drover"), "nginx": NGINX},
        (NEW, KEPT), measure_reload, {
            "sent": "sent", "lost": "lost", "p99 ms": ("p99_us", ms), "took s": ("took_s", one_digit)},
        seconds=10, ratios=("p99_us",), of="sent"),
    "kill": Experiment(
        "workers are killed", {
            "hello": (*HELLO_PEERS, "drover"), "express": (*NODE_PEERS, "drover")},
        ("SIGKILL",), measure_kill, {
            "sent": "sent", "kills": "kills", "lost": "lost", "p99 ms": ("p99_us", ms),
            "replaced ms": "replaced_ms"},
        seconds=7, ratios=("replaced_ms",)),
    "growth": Experiment(
        "from 1 to 256 workers", {"hello": ("plain", "drover")},
        tuple(f"{count} workers" for count in (1, 4, 16, 64, 256)), measure_growth, {
            "all serve ms": "ready_ms", **MEMORY, "peer µs": ("peer_us", one_digit),
            "with clients µs": ("all_us", one_digit), "p99 ms": ("p99_us", ms)},
        ratios=("peer_us",), workers=lambda server, case: int(case.split()[0])),
}
