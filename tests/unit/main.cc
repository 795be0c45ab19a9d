// SPDX-License-Identifier: MIT
//
// The unit tests' main(): doctest's own.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
