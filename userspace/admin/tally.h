// SPDX-License-Identifier: MIT
//
// How often each kind of event has happened since this master began: for metrics, which are looked
// at now and then and must not miss what was in between.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <variant>

#include "supervisor/types.h"

namespace drover::admin {

struct Tally {
    static constexpr size_t kKinds = static_cast<size_t>(supervisor::EventKind::error) + 1;
    static constexpr size_t kReasons = static_cast<size_t>(supervisor::ExitReason::exec) + 1;

    std::array<uint64_t, kKinds> events{};   // index: EventKind
    std::array<uint64_t, kReasons> exits{};  // index: ExitReason

    void count(const supervisor::Event& event) {
        events.at(static_cast<size_t>(event.kind))++;
        if (const auto* data = std::get_if<supervisor::ExitData>(&event.data))
            exits.at(static_cast<size_t>(data->exit.reason))++;
    }
};

}  // namespace drover::admin
