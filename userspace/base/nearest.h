// SPDX-License-Identifier: MIT
//
// The word that was probably meant: for "did you mean …?" after a misspelt option, verb or name.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace drover {

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
size_t edit_distance(std::string_view one, std::string_view other);

// The candidate nearest to `word`; among equally near ones the first. Nothing where none is near
// enough to be a misspelling: one edit for words up to three letters, two up to eight, else three.
std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates);

// ": did you mean <prefix><word>?", or "" where nothing is near: to be put behind a sentence.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates,
                         std::string_view prefix = "");

}  // namespace drover
