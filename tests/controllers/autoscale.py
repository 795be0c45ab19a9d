#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A controller that scales by the live connections per worker.

    drover run --controller 'autoscale.py 50 2 16' -- ./server

50 live connections are right for one worker; never fewer than 2 workers, nor more than 16. It looks
every 5 seconds (a fourth argument says otherwise). More workers come as soon as they are needed;
they go one by one, and only when the rest would be at three quarters of what is right.
"""
import json, math, sys, threading, time

RIGHT, LEAST, MOST = (int(arg) for arg in sys.argv[1:4])
EVERY = float(sys.argv[4]) if len(sys.argv) > 4 else 5.0
STATUS, SCALE = 1, 2  # the ids of our requests

def ask(id, verb, **args):
    sys.stdout.write(json.dumps({"v": 1, "id": id, "verb": verb, "args": args}) + "\n")
    sys.stdout.flush()

def look():
    while True:
        ask(STATUS, "status")
        time.sleep(EVERY)

def workers_for(live, now):
    fitting = max(math.ceil(live / RIGHT), LEAST)
    if fitting >= now: return min(fitting, MOST)
    return now - 1 if live <= RIGHT * (now - 1) * 3 / 4 else now

threading.Thread(target=look, daemon=True).start()
scaling = False
for line in sys.stdin:  # ends when the cluster does
    said = json.loads(line)
    if said.get("event") == "error": print("autoscale:", said["data"]["text"], file=sys.stderr)
    if said.get("id") == SCALE: scaling = False
    if said.get("id") != STATUS or scaling: continue
    now = said["data"]["wanted"]
    wanted = workers_for(sum(w["live"] for w in said["data"]["workers"]), now)
    if wanted == now: continue
    scaling = True
    ask(SCALE, "scale", n=wanted)
