// SPDX-License-Identifier: MIT
//
// Of several ports, which must a worker listen on before it is ready? The rule by itself; the
// supervisor's use of it is in supervisor_test.cc.
#include "supervisor/readiness.h"

#include <doctest/doctest.h>

using drover::supervisor::listens_on_enough;
using Ports = std::set<int>;

TEST_CASE("readiness: who does not listen is never ready") {
    CHECK_FALSE(listens_on_enough({}, {}, {}));
    CHECK_FALSE(listens_on_enough({}, {80}, {}));
    CHECK_FALSE(listens_on_enough({}, {}, {80}));
}

TEST_CASE("readiness: the first port is enough where none is named and no peer is ready") {
    CHECK(listens_on_enough({80}, {}, {}));
    CHECK(listens_on_enough({80, 443}, {}, {}));
}

TEST_CASE("readiness: all named ports are needed") {
    CHECK_FALSE(listens_on_enough({80}, {80, 443}, {}));
    CHECK_FALSE(listens_on_enough({443}, {80, 443}, {}));
    CHECK_FALSE(listens_on_enough({8080}, {80, 443}, {}));
    CHECK(listens_on_enough({80, 443}, {80, 443}, {}));
}

TEST_CASE("readiness: a port too many does no harm") {
    CHECK(listens_on_enough({80, 443, 9000}, {80, 443}, {}));
    CHECK(listens_on_enough({80, 9000}, {}, {80}));
}

TEST_CASE("readiness: where no port is named, all that the ready peers have are needed") {
    CHECK_FALSE(listens_on_enough({80}, {}, {80, 443}));
    CHECK(listens_on_enough({80, 443}, {}, {80, 443}));
}

TEST_CASE("readiness: named ports go before the peers'") {
    CHECK(listens_on_enough({80}, {80}, {80, 443}));
    CHECK_FALSE(listens_on_enough({443}, {80}, {443}));
}
