#!/usr/bin/env python3
"""Runs a command in a virtual machine, through QEMU's guest agent, and ends with its status.

    scripts/vm_exec.py SOCKET PROGRAM [ARGUMENT...]

SOCKET is the Unix socket of the agent's serial line. Status 255: the agent does not answer.
"""
import base64
import json
import os
import socket
import sys
import time

ANSWER_TIMEOUT = 20  # seconds


class Agent:
    def __init__(self, path):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(ANSWER_TIMEOUT)
        line.connect(path)
        self.line = line.makefile("rwb")

    def send(self, command, arguments):
        self.line.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.line.flush()

    def receive(self):
        answer = json.loads(self.line.readline())
        if "error" in answer:
            raise ValueError(answer["error"]["desc"])
        return answer["return"]

    def ask(self, command, arguments):
        self.send(command, arguments)
        return self.receive()

    def synchronize(self):
        """Skips what the line still has from before: answers, or half of one."""
        number = int.from_bytes(os.urandom(4), "big")
        self.send("guest-sync", {"id": number})
        while True:
            try:
                if self.receive() == number:
                    return
            except ValueError:
                pass


def run(agent, program, arguments):
    pid = agent.ask(
        "guest-exec", {"path": program, "arg": arguments, "capture-output": True}
    )["pid"]
    while True:
        status = agent.ask("guest-exec-status", {"pid": pid})
        if status["exited"]:
            break
        time.sleep(0.05)
    sys.stdout.buffer.write(base64.b64decode(status.get("out-data", "")))
    sys.stderr.buffer.write(base64.b64decode(status.get("err-data", "")))
    return 128 + status["signal"] if "signal" in status else status["exitcode"]


def main():
    try:
        agent = Agent(sys.argv[1])
        agent.synchronize()
        return run(agent, sys.argv[2], sys.argv[3:])
    except (OSError, ValueError) as error:
        print(f"vm_exec: {error}", file=sys.stderr)
        return 255


sys.exit(main())
