// SPDX-License-Identifier: MIT
#include "cli/top_terminal.h"

#include <fmt/format.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "cli/terminal.h"

// Last: without its macros, which have names like "move".
#define NCURSES_NOMACROS 1
#define NCURSES_WIDECHAR 1
#include <curses.h>

namespace drover::cli {

namespace {

enum Pair : short { kGood = 1, kWarn, kBad };

attr_t attributes_of(Paint paint, bool has_color) {
    auto color = [&](Pair pair) {
        return has_color ? static_cast<attr_t>(COLOR_PAIR(pair)) : A_NORMAL;
    };
    switch (paint) {
        case Paint::plain:
            return A_NORMAL;
        case Paint::bold:
            return A_BOLD;
        case Paint::dim:
            return A_DIM;
        case Paint::good:
            return color(kGood);
        case Paint::warn:
            return color(kWarn);
        case Paint::bad:
            return color(kBad) | A_BOLD;
    }
    return A_NORMAL;
}

}  // namespace

Result<std::unique_ptr<TopTerminal>> TopTerminal::open() {
    // What a character is: for UTF-8 in what is drawn. Numbers keep the C locale's form.
    std::setlocale(LC_CTYPE, "");
    std::unique_ptr<TopTerminal> terminal(new TopTerminal);
    terminal->is_utf8_ = std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
    terminal->screen_ = ::newterm(nullptr, stdout, stdin);
    if (terminal->screen_ == nullptr) {
        const char* term = std::getenv("TERM");
        return fail("usage",
                    fmt::format("the terminal \"{}\" is not known here: try TERM=xterm drover top",
                                escape(term != nullptr ? term : "")));
    }
    ::cbreak();
    ::noecho();
    ::curs_set(0);
    ::nodelay(stdscr, TRUE);
    ::keypad(stdscr, TRUE);
    ::set_escdelay(25);
    if (use_color(STDOUT_FILENO) && ::has_colors()) {
        terminal->has_color_ = true;
        ::start_color();
        ::use_default_colors();
        ::init_pair(kGood, COLOR_GREEN, -1);
        ::init_pair(kWarn, COLOR_YELLOW, -1);
        ::init_pair(kBad, COLOR_RED, -1);
    }
    return terminal;
}

TopTerminal::~TopTerminal() {
    if (screen_ == nullptr) return;
    ::endwin();
    ::delscreen(static_cast<SCREEN*>(screen_));
}

size_t TopTerminal::width() const {
    return static_cast<size_t>(::getmaxx(stdscr));
}

size_t TopTerminal::height() const {
    return static_cast<size_t>(::getmaxy(stdscr));
}

void TopTerminal::resize() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0)
        return;
    ::resizeterm(size.ws_row, size.ws_col);
    ::clearok(stdscr, TRUE);  // what the terminal made of the old lines is drawn over
}

void TopTerminal::draw(const std::vector<TopLine>& lines) {
    ::erase();
    for (size_t y = 0; y < lines.size() && y < height(); ++y) {
        ::move(static_cast<int>(y), 0);
        attr_t reverse = lines[y].is_selected ? A_REVERSE : A_NORMAL;
        for (const auto& span : lines[y].spans) {
            ::attrset(static_cast<int>(attributes_of(span.paint, has_color_) | reverse));
            ::addstr(span.text.c_str());
        }
        ::attrset(A_NORMAL);
    }
    ::refresh();
}

std::optional<Key> TopTerminal::key() {
    using Kind = Key::Kind;
    int code = ::getch();
    while (code == KEY_RESIZE) code = ::getch();  // resize() knows
    switch (code) {
        case ERR:
            return std::nullopt;
        case KEY_UP:
            return Key{Kind::up, 0};
        case KEY_DOWN:
            return Key{Kind::down, 0};
        case KEY_PPAGE:
            return Key{Kind::page_up, 0};
        case KEY_NPAGE:
            return Key{Kind::page_down, 0};
        case KEY_HOME:
            return Key{Kind::home, 0};
        case KEY_END:
            return Key{Kind::end, 0};
        default:
            return code > 0 && code < 0x80 ? Key{Kind::character, static_cast<char>(code)} : Key{};
    }
}

}  // namespace drover::cli
