// SPDX-License-Identifier: MIT
//
// Messages over pipes, one JSON object a line: between workers and the master, among workers, and
// what becomes of those who do it badly. The workers are tests/servers/talker.cc, which does what a
// message tells it, and one program that speaks the protocol by hand.
#include <fmt/format.h>
#include <signal.h>

#include <filesystem>

#include "harness.h"
#include "http.h"
#include "messages.h"

namespace drover::test {

namespace {

constexpr milliseconds kPrompt{5'000};  // for an answer that nobody else may hold up

Words talker(const Words& options = {}) {
    Words command = {build_folder() + "/servers/talker", "--port", "8080"};
    command.insert(command.end(), options.begin(), options.end());
    return command;
}

std::string hex(const std::string& bytes) {
    std::string text;
    for (unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

// The error events about worker `id`, each as "code: text".
std::vector<std::string> errors_of(Cluster& cluster, int id) {
    std::vector<std::string> errors;
    for (const auto& event : events_of(cluster, "error"))
        if (event["worker"].is_object() && event["worker"]["id"] == id)
            errors.push_back(event["data"]["code"].get<std::string>() + ": " +
                             event["data"]["text"].get<std::string>());
    return errors;
}

// What worker 1 sends past its library becomes one error event with this code that names it, and
// is the only harm done.
void check_refused(const std::string& bytes, const std::string& code) {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    pid_t pid = cluster.pid_of(0);
    REQUIRE(send(cluster, "web/1", {{"do", "raw"}, {"hex", hex(bytes)}}) == 0);
    REQUIRE(eventually([&] { return !errors_of(cluster, 1).empty(); }));
    auto errors = errors_of(cluster, 1);
    CHECK(errors.size() == 1);
    INFO(errors[0]);
    CHECK(errors[0].substr(0, code.size() + 1) == code + ":");
    CHECK(contains(errors[0], "worker 1"));
    REQUIRE(send(cluster, "web/1", "still there") == 0);
    CHECK(wait_said(cluster, 1, "still there"));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.pid_of(0) == pid);
    CHECK(cluster.stop() == 0);
}

// Sends each of two workers, which echo, 2,000 messages, and compares what comes back: checksums,
// and their order. The sizes are those of the messages' JSON. Worker 1 gets all from 1 byte to 1
// MiB (less what a request is wrapped in), evenly by their number of digits; worker 2, whose
// messages must not get among the other's, up to 4 KiB, or the test would take twice as long.
//
// What is underway is kept below what the master keeps for a follower of the events. That is less
// than what it keeps for a worker; so worker 1 is stopped first, until its queue is full.
const char* const kExchange = R"(
import json, os, random, signal, socket, sys, zlib

PATH, PID = sys.argv[1], int(sys.argv[2])
COUNT, UNDERWAY, LARGEST = 2000, 3 * 2**20, {1: 2**20 - 128, 2: 2**12}
SPECIAL = "\n\t\"\\/ü€😀"

def connect():
    control = socket.socket(socket.AF_UNIX)
    control.connect(PATH)
    return control, control.makefile("rb", 2**20)

def to_json(data):
    return json.dumps(data, ensure_ascii=False).encode()

random.seed(7)
LETTERS = "".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=2**20)) * 2
PLACES = random.sample(range(COUNT), COUNT)  # of each message in the order of sizes

def message(worker, number):
    size = round(LARGEST[worker] ** (PLACES[number] / (COUNT - 1)))
    if size == 1: return to_json(number % 10)
    special = SPECIAL if size >= 40 else ""
    begin = number * 499
    text = to_json(LETTERS[begin:begin + size - len(to_json(special))] + special)
    assert len(text) == size
    return text

follower, events = connect()
follower.sendall(b'{"v":1,"id":1,"verb":"events","args":{"follow":true}}\n')
events.readline()
control, replies = connect()
expected, came, underway = {1: [], 2: []}, {1: 0, 2: 0}, 0

def take_one():
    global underway
    event = json.loads(events.readline())
    if event["event"] == "error":
        sys.exit(f"error: {event['data']}")
    if event["event"] != "message":
        return
    worker, data = event["data"]["from"], to_json(event["data"]["data"])
    if expected[worker][came[worker]] != (len(data), zlib.crc32(data)):
        sys.exit(f"worker {worker}: message {came[worker]} is not what was sent")
    came[worker] += 1
    underway -= len(data)

def send(worker):  # False: its queue is full
    global underway
    data = message(worker, len(expected[worker]))
    control.sendall(b'{"v":1,"id":%d,"verb":"send","args":{"worker":%d,"data":%s}}\n' %
                    (len(expected[worker]), worker, data))
    reply = json.loads(replies.readline())
    if reply["ok"]:
        expected[worker].append((len(data), zlib.crc32(data)))
        underway += len(data)
    elif reply["error"]["code"] != "queue-full":
        sys.exit(f"refused: {reply}")
    return reply["ok"]

os.kill(PID, signal.SIGSTOP)
while send(1): pass
os.kill(PID, signal.SIGCONT)
while min(len(messages) for messages in expected.values()) < COUNT:
    while underway > UNDERWAY: take_one()
    worker = min(expected, key=lambda worker: len(expected[worker]))
    while not send(worker): take_one()
while min(came.values()) < COUNT: take_one()
print("all came back in order")
)";

void check_exchange(Sandbox& sandbox, const Words& command) {
    auto python = find_program("python3");
    if (!python) return;
    Cluster cluster(sandbox, "web", {"-n", "2"}, command);
    REQUIRE(cluster.wait_ready(2));
    write_file(sandbox.path("exchange.py"), kExchange);
    auto outcome = sandbox.run(
        {.command = {*python, sandbox.path("exchange.py"),
                     sandbox.run_folder() + "/web/control.sock", std::to_string(cluster.pid_of(0))},
         .extra_environment = {},
         .identity = {},
         .cwd = {}},
        milliseconds(180'000));  // the machine may be busy with other tests
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    CHECK(outcome.out == "all came back in order\n");
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

}  // namespace

TEST_SUITE_BEGIN("message");

TEST_CASE("2,000 messages of up to 1 MiB to each worker and back arrive whole and in order") {
    Sandbox sandbox;
    check_exchange(sandbox, talker());
}

TEST_CASE("2,000 messages of up to 1 MiB to each Node worker and back arrive whole and in order") {
    auto node = find_program("node");
    if (!node) return;
    Sandbox sandbox;
    check_exchange(sandbox, {*node, std::filesystem::absolute("tests/node/echo.js")});
}

TEST_CASE("with --ready message a worker is ready when it says so, not when it listens") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ready", "message"},
                    talker({"--ready-after-ms", std::to_string(600 * slowness())}));
    REQUIRE(eventually([&] { return cluster.worker(0)["state"] == "listening"; }));
    CHECK(cluster.status()["ready"] == 0);
    CHECK(cluster.wait_ready(1));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a message to a worker arrives, and its answer is an event") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, talker());
    REQUIRE(cluster.wait_ready(2));
    Json data = {{"text", "grüße \"\\\n\t"}, {"list", {1, 2.5, nullptr, true}}, {"deep", {{{}}}}};
    REQUIRE(send(cluster, "web/2", data) == 0);
    REQUIRE(wait_said(cluster, 2, data));
    auto events = events_of(cluster, "message");
    REQUIRE(events.size() == 1);
    CHECK(events[0]["worker"]["id"] == 2);
    CHECK(events[0]["worker"]["instance"] == 1);
    CHECK(events[0]["data"]["from"] == 2);
    CHECK(events[0]["data"]["to"] == "master");
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a message without a worker's id goes to all of them") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, talker());
    REQUIRE(cluster.wait_ready(3));
    REQUIRE(send(cluster, "web", "to you all") == 0);
    for (int id = 1; id <= 3; id++) CHECK(wait_said(cluster, id, "to you all"));
    CHECK(events_of(cluster, "message").size() == 3);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker's message to all reaches every other worker and not itself") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, talker());
    REQUIRE(cluster.wait_ready(3));
    Json news = {{"news", 7}};
    REQUIRE(send(cluster, "web/2", {{"do", "broadcast"}, {"say", news}}) == 0);
    CHECK(wait_said(cluster, 1, {{"got", news}, {"from", 2}}));
    CHECK(wait_said(cluster, 3, {{"got", news}, {"from", 2}}));
    REQUIRE(send(cluster, "web/2", "after it") == 0);
    REQUIRE(wait_said(cluster, 2, "after it"));
    CHECK(said_by(cluster, 2) == std::vector<Json>{news, "after it"});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker's message to one other reaches that one alone") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "3"}, talker());
    REQUIRE(cluster.wait_ready(3));
    REQUIRE(send(cluster, "web/1", {{"do", "tell"}, {"id", 3}, {"say", "psst"}}) == 0);
    CHECK(wait_said(cluster, 3, {{"got", "psst"}, {"from", 1}}));
    REQUIRE(send(cluster, "web/2", "after it") == 0);
    REQUIRE(wait_said(cluster, 2, "after it"));
    CHECK(said_by(cluster, 2) == std::vector<Json>{"after it"});
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a message to a worker that there is not is an error of who sent it") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(send(cluster, "web/1", {{"do", "tell"}, {"id", 99}, {"say", "hm"}}) == 0);
    CHECK(eventually([&] { return errors_of(cluster, 1).size() == 1; }));
    CHECK(contains(errors_of(cluster, 1).at(0), "no-such-worker"));
    CHECK(send(cluster, "web/99", "hm") == 1);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("what is no JSON is refused before it is sent") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    auto outcome = cluster.drover({"send", "web/1", "{not json"});
    CHECK(outcome.status != 0);
    CHECK(contains(outcome.err, "JSON"));
    CHECK(errors_of(cluster, 1).empty());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a program without a channel cannot be sent anything") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1", "--ipc", "none"}, talker());
    REQUIRE(cluster.wait_ready(1));
    auto outcome = cluster.drover({"send", "web/1", "1"});
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.err, "channel"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a line that is no JSON is an error event, and the worker lives on") {
    check_refused("this is no JSON\n", "malformed");
}

TEST_CASE("a line that is not UTF-8 is an error event, and the worker lives on") {
    check_refused("{\"type\":\"message\",\"data\":\"\xff\xfe\"}\n", "malformed");
}

TEST_CASE("a line nested too deeply is an error event, and the worker lives on") {
    check_refused("{\"type\":\"message\",\"data\":" + std::string(5'000, '[') +
                      std::string(5'000, ']') + "}\n",
                  "malformed");
}

TEST_CASE("a line of more than 1 MiB is an error event, and the worker lives on") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    REQUIRE(send(cluster, "web/1", {{"do", "big"}, {"bytes", 3'000'000}}) == 0);
    REQUIRE(eventually([&] { return !errors_of(cluster, 1).empty(); }));
    CHECK(errors_of(cluster, 1).size() == 1);
    CHECK(errors_of(cluster, 1)[0].substr(0, 10) == "oversized:");
    REQUIRE(send(cluster, "web/1", "still there") == 0);
    CHECK(wait_said(cluster, 1, "still there"));
    CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
}

TEST_CASE("a worker that sends without end slows neither the others nor the master") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, talker());
    REQUIRE(cluster.wait_ready(2));
    // Held: requests go to the other one alone.
    REQUIRE(cluster.drover({"drain", "web/1"}).status == 0);
    REQUIRE(send(cluster, "web/1", {{"do", "flood"}, {"count", 1'000'000'000}}) == 0);
    REQUIRE(eventually([&] { return events_of(cluster, "message").size() > 500; }));
    for (int i = 0; i < 10; i++) {
        auto begin = Clock::now();
        auto reply = get("127.0.0.1", 8080);
        CHECK(instance_in(reply.body) == 1);
        CHECK(Clock::now() - begin < slowness() * kPrompt);
        begin = Clock::now();
        CHECK(cluster.status()["ready"] == 2);
        CHECK(Clock::now() - begin < slowness() * kPrompt);
    }
    CHECK(cluster.drover({"signal", "web/1", "KILL"}).status == 0);
    CHECK(eventually([&] { return cluster.worker(0)["id"] == 3; }));
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("of a thousand messages none is lost and their order is kept") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    // As many as the master remembers, less those of the start.
    REQUIRE(send(cluster, "web/1", {{"do", "flood"}, {"count", 990}}) == 0);
    REQUIRE(wait_said(cluster, 1, 989));
    auto said = said_by(cluster, 1);
    REQUIRE(said.size() == 990);
    for (int i = 0; i < 990; i++) CHECK(said[static_cast<size_t>(i)] == i);
    CHECK(cluster.stop() == 0);
}

TEST_CASE("to a worker that reads nothing a send fails in the end, and others go on") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2"}, talker());
    REQUIRE(cluster.wait_ready(2));
    REQUIRE(send(cluster, "web/1", {{"do", "deaf"}}) == 0);
    Json large = std::string(100'000, 'x');
    Outcome outcome;
    int sent = 0;
    for (; sent < 100 && outcome.status != 1; sent++)
        outcome = cluster.drover({"send", "web/1", large.dump()});
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.err, "does not read"));
    CHECK(sent > 40);  // 4 MiB wait for it
    // A message to all says whom it did not reach, and reaches all the others.
    outcome = cluster.drover({"send", "web", large.dump()});
    CHECK(outcome.status == 1);
    CHECK(contains(outcome.err, "worker 1"));
    CHECK(wait_said(cluster, 2, large));
    auto begin = Clock::now();
    REQUIRE(send(cluster, "web/2", "one") == 0);
    CHECK(wait_said(cluster, 2, "one"));
    CHECK(Clock::now() - begin < slowness() * kPrompt);
    for (int i = 0; i < 4; i++) CHECK(get("127.0.0.1", 8080).ok());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("events are shown however large the messages among them were") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "1"}, talker());
    REQUIRE(cluster.wait_ready(1));
    for (int i = 0; i < 60; i++)
        REQUIRE(send(cluster, "web/1", std::string(100'000, 'x')) == 0);  // it sends them back
    REQUIRE(send(cluster, "web/1", "the last") == 0);
    CHECK(wait_said(cluster, 1, "the last"));
    CHECK_FALSE(contains(cluster.master().err(), "dropped"));
    CHECK(cluster.stop() == 0);
}

TEST_CASE("workers with pipes live on without their master until drover stop") {
    Sandbox sandbox;
    Cluster cluster(sandbox, "web", {"-n", "2", "--policy", "round-robin"}, talker());
    REQUIRE(cluster.wait_ready(2));
    cluster.master().send(SIGKILL);
    REQUIRE(cluster.master().wait() == 128 + SIGKILL);
    CHECK(spread("127.0.0.1", 8080, 8) == std::map<int, int>{{0, 4}, {1, 4}});
    CHECK(sandbox.drover({"stop", "web"}).status == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("a worker that is to end is told so on its channel") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    write_file(sandbox.path("worker.py"), R"(
import json, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(int(os.environ["DROVER_IPC_WRITE_FD"]), b'{"type":"ready"}\n')
for line in os.fdopen(int(os.environ["DROVER_IPC_READ_FD"])):
    line = json.loads(line)
    if line["type"] == "disconnect":
        print("told to end within", line["deadline_ms"], "ms", flush=True)
        break
)");
    Cluster cluster(sandbox, "job", {"-n", "2", "--ready", "message", "--drain-timeout", "7s"},
                    {*python, sandbox.path("worker.py")});
    REQUIRE(cluster.wait_ready(2));
    auto begin = Clock::now();
    CHECK(cluster.stop() == 0);
    CHECK(Clock::now() - begin < milliseconds(9'000));  // not killed after --stop-timeout
    CHECK(contains(cluster.master().out(), "[job/0] told to end within 7000 ms"));
    CHECK(contains(cluster.master().out(), "[job/1] told to end within 7000 ms"));
    CHECK(sandbox.leftovers() == "");
}

TEST_CASE("the protocol is spoken by hand in a few lines") {
    auto python = find_program("python3");
    if (!python) return;
    Sandbox sandbox;
    write_file(sandbox.path("worker.py"), R"(
import json, os
reader = os.fdopen(int(os.environ["DROVER_IPC_READ_FD"]))
writer = os.fdopen(int(os.environ["DROVER_IPC_WRITE_FD"]), "w", buffering=1)
def say(**line): print(json.dumps(line), file=writer)
for line in reader:
    line = json.loads(line)
    if line["type"] == "hello":
        say(type="message", data=line)
        say(type="of the future", data=1)
        say(type="ready")
    if line["type"] == "message":
        say(type="message", data={"from": line["from"], "data": line["data"]}, to=line["data"])
    if line["type"] == "ping":
        say(type="pong")
    if line["type"] == "disconnect":
        break
)");
    Cluster cluster(sandbox, "job", {"-n", "2", "--ready", "message"},
                    {*python, sandbox.path("worker.py")});
    REQUIRE(cluster.wait_ready(2));
    REQUIRE_FALSE(said_by(cluster, 2).empty());
    Json hello = said_by(cluster, 2)[0];
    CHECK(hello["v"] == 1);
    CHECK(hello["id"] == 2);
    CHECK(hello["instance"] == 1);
    CHECK(hello["workers"] == 2);
    // It tells whom the data names. Worker 2 is told an object, which names nobody.
    REQUIRE(send(cluster, "job/1", 2) == 0);
    CHECK(wait_said(cluster, 1, {{"from", "master"}, {"data", 2}}));
    CHECK(eventually([&] { return errors_of(cluster, 2).size() == 1; }));
    CHECK(errors_of(cluster, 1).empty());
    CHECK(cluster.stop() == 0);
    CHECK(sandbox.leftovers() == "");
}

TEST_SUITE_END();

}  // namespace drover::test
