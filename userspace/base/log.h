// SPDX-License-Identifier: MIT
//
// The master's own words: one line each on standard error, "drover: …". What workers print goes
// through the logger process instead.
//
// They are also told to whoever keeps them beside what the workers print (see set_keeper). That is
// the one global here, because every part of the master may have something to say.
#pragma once

#include <functional>
#include <string_view>

namespace drover::log {

enum class Level { info, warning, error };

void info(std::string_view text);
void warn(std::string_view text);   // "drover: warning: …"
void error(std::string_view text);  // "drover: error: …"

// "", "warning: " or "error: "
std::string_view prefix_of(Level level);

// Gets each line from now on. True: it has come to where standard error leads, too, so it is not
// written there once more. An empty one: nobody keeps them any more.
using Keeper = std::function<bool(Level level, std::string_view text)>;
void set_keeper(Keeper keeper);

}  // namespace drover::log
