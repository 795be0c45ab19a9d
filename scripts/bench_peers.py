"""The servers that the bench of peers asks, and the ways to have N of them behind one port. Not a
command.

Each peer is set up as its users do, by what its manual says, with its defaults where it says nothing.
The proxies get health checks, since without any HAProxy would never leave a worker that hangs alone;
nginx has only passive ones."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

from bench_common import (BUILD, DROVER, FILES, PORT, Place, folder, log_file, node_server)

FIRST_UPSTREAM_PORT = 9001
PM2 = ["node", str(BUILD / "node/node_modules/pm2/bin/pm2")]

POLICIES = ("hash", "round-robin", "source", "least-conn")  # beside the default
DROVER_EACH = ("drover", *(f"drover {policy}" for policy in POLICIES))  # and shared, for Node


class Server(NamedTuple):
    command: Callable  # port → words
    worker: str        # a pattern of the command line of a process that serves
    mark: str = "listening"  # what each worker says when it serves
    drover_options: tuple = ()


def program(name):
    return lambda port: [str(BUILD / "servers" / name), "--port", str(port)]


def node(name):
    return Server(lambda port: node_server(name, port), rf"\S*node \S*/{re.escape(name)}")


SERVERS = {
    "hello": Server(program("hello"), r"\S*/servers/hello "),
    "blocking": Server(program("blocking"), r"\S*/servers/blocking "),
    "node": node("mixed.js"),
    "express": node("express.js"),
    "nginx": Server(lambda port: nginx_command(nginx_serving(port, workers=1)),
                    "nginx: worker process", "start worker process ",
                    ("--stop-signal", "QUIT")),
}


# --- nginx and HAProxy ----------------------------------------------------------------------------


def write(name, text):
    path = folder() / name
    path.write_text(text)
    return str(path)


def nginx_command(configuration):
    return ["nginx", "-e", "stderr", "-c", configuration]


def nginx_configuration(name, workers, http):
    # nginx removes its pid file when it ends, also where that is /dev/null: so it has one of its own,
    # though several masters (drover's workers) may share it, and nobody reads it.
    return write(name, f"""
daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile {FILES};
error_log stderr notice;
pid {folder()}/{name}.pid;
events {{ worker_connections {FILES // 2}; }}
http {{
    access_log off;
    client_body_temp_path {folder()}/body; proxy_temp_path {folder()}/proxy;
    fastcgi_temp_path {folder()}/fastcgi; uwsgi_temp_path {folder()}/uwsgi;
    scgi_temp_path {folder()}/scgi;
    {http}
}}
""")


def nginx_serving(port, workers, reuseport=""):
    return nginx_configuration("nginx.conf", workers, f"""
    server {{
        listen {port} {reuseport};
        location / {{ add_header X-Worker $pid; return 200 "pid $pid\\n"; }}
    }}""")


def nginx_in_front(ports):
    upstreams = "\n".join(f"        server 127.0.0.1:{port};" for port in ports)
    return nginx_configuration("proxy.conf", "auto", f"""
    upstream workers {{
        zone workers 1m;
        least_conn;
{upstreams}
        keepalive 64;
    }}
    server {{
        listen {PORT};
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}""")


def haproxy_in_front(ports, mode, limit):
    # In mode tcp a connection keeps its worker, as one that is upgraded to a WebSocket does.
    check = "option httpchk GET /" if mode == "http" else ""
    servers = "\n".join(f"    server w{number} 127.0.0.1:{port}"
                        for number, port in enumerate(ports))
    return write("haproxy.cfg", f"""
global
    maxconn {FILES // 2 - 200}
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch 1
    {check}
    default-server check inter 1s {limit}
listen bench
    bind :{PORT}
    balance leastconn
{servers}
""")


# --- How to start N workers behind PORT -----------------------------------------------------------


def each_by_itself(place, server, ports):
    for port in ports:
        place.spawn(server.command(port))
    place.wait_until_listening(len(ports), server.mark)


def plain(place, server, workers):
    for _ in range(workers):
        place.spawn([*server.command(PORT), "--reuseport"])


def shared(place, server, workers):
    command = server.command(PORT)
    place.start_on_one_socket(workers, [*command, *(["--passed"] if "hello" in command[0] else [])])


def cluster(policy):
    return lambda place, server, workers: place.start_node_cluster(workers, policy,
                                                                   server.command(PORT))


def pm2(place, server, workers):
    os.environ["PM2_HOME"] = str(folder() / "pm2")
    _, script, *arguments = server.command(PORT)
    place.spawn([*PM2, "start", script, "--name", "bench", "-i", str(workers), "--output",
                 str(log_file()), "--error", str(log_file()), "--merge-logs", "--", *arguments])


def behind(proxy_command):
    def start(place, server, workers):
        ports = range(FIRST_UPSTREAM_PORT, FIRST_UPSTREAM_PORT + workers)
        each_by_itself(place, server, ports)
        place.spawn(proxy_command(ports))
    return start


def haproxy(mode="http", limit=""):
    return behind(lambda ports: ["haproxy", "-db", "-f", haproxy_in_front(ports, mode, limit)])


def drover(policy):
    return lambda place, server, workers: place.spawn_drover(
        workers, policy, server.command(PORT), server.drover_options)


def own_nginx(reuseport):
    return lambda place, server, workers: place.spawn(nginx_command(
        nginx_serving(PORT, workers, reuseport)))


PEERS = {
    "plain": plain,
    "shared": shared,
    "cluster-rr": cluster("rr"),
    "cluster-shared": cluster("none"),
    "pm2": pm2,
    "haproxy": haproxy(),
    "haproxy-tcp": haproxy("tcp"),
    "haproxy-queue": haproxy(limit="maxconn 1"),
    "nginx-proxy": behind(lambda ports: nginx_command(nginx_in_front(ports))),
    "nginx-reuseport": own_nginx("reuseport"),
    "nginx-accept": own_nginx(""),
    "drover": drover("least-busy"),
    **{f"drover {policy}": drover(policy) for policy in (*POLICIES, "shared")},
}

# Peers that replace a worker that died.
REPLACING = ("cluster-rr", "cluster-shared", "pm2", "nginx-reuseport", "nginx-accept", "drover")


def reload_drover(_):
    return [DROVER, "reload", "bench"]


def reload_pm2(_):
    return [*PM2, "reload", "bench"]


def reload_nginx(place):
    return ["kill", "-HUP", str(place.processes[0].pid)]


RELOADS = {"drover": reload_drover, "pm2": reload_pm2, "nginx-reuseport": reload_nginx,
           "nginx-accept": reload_nginx}


# --- What can be asked of them --------------------------------------------------------------------


class PeerPlace(Place):
    """Workers of one kind behind PORT, in one of the ways above."""

    def __init__(self, server_name, peer, workers):
        super().__init__()
        self.server, self.peer, self.workers = SERVERS[server_name], peer, workers

    def start(self):
        PEERS[self.peer](self, self.server, self.workers)

    def count_listening(self):
        return log_file().read_text(errors="replace").count(self.server.mark)

    def is_ready(self):
        if self.peer.startswith("drover"):
            return self.status().get("ready") == self.workers
        return self.count_listening() >= self.workers

    def cpu_us(self):
        """Of all that has run here: workers, masters, proxies."""
        return int(re.search(r"usage_usec (\d+)", (self.cgroup / "cpu.stat").read_text())[1])

    def others_cpu_us(self):
        """Of what is not a worker, as far as it still runs."""
        return sum(int(task.read_text().split()[0]) for pid in self.other_pids()
                   for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1000

    def pids(self):
        return sorted({int(pid) for procs in self.cgroup.rglob("cgroup.procs")
                       for pid in procs.read_text().split()})

    def worker_pids(self):
        return [pid for pid in self.pids() if re.match(self.server.worker, command_line(pid))]

    def other_pids(self):
        """Masters, proxies, loggers. nginx's masters belong to the server where it is the server."""
        workers = self.worker_pids()
        others = [pid for pid in self.pids() if pid not in workers and command_line(pid)]
        if self.peer.startswith("drover"):
            others = [pid for pid in others if "nginx" not in command_line(pid).split()[0]]
        return others


def command_line(pid):
    """Empty where the process is gone, or ends just now."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def memory_kb(pid):
    """RSS and RssAnon; 0 where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = [re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmRSS", "RssAnon")]
    return tuple(int(each[1]) if each else 0 for each in found)


def versions():
    """Of what is measured beside drover."""
    commands = {"haproxy": ["haproxy", "-v"], "nginx": ["nginx", "-v"], "node": ["node", "--version"],
                "pm2": ["node", "-p", f"require('{BUILD}/node/node_modules/pm2/package').version"],
                "wrk": ["wrk", "-v"]}
    found = {}
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True)
        number = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
        found[name] = number[0] if number else None
    return found


def lacking():
    """What has to be installed for all of this, and is not."""
    missing = [name for name in ("haproxy", "nginx", "node", "wrk", "gnuplot", "chrt", "taskset")
               if not shutil.which(name)]
    missing += [name for name in ("express", "pm2")
                if not (BUILD / "node/node_modules" / name).is_dir()]
    return missing
