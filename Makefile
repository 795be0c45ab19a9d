# drover's build. `make help` lists the targets. Everything is built in build/ (or BUILD=folder).

BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
SAN     ?= 0
COVERAGE ?= 0
V       ?= 0
FUZZ_SECONDS ?= 60

CLANG      ?= clang
CLANGXX    ?= clang++
CXX        := g++
CC         := gcc
BPFTOOL    ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
PKG_CONFIG ?= pkg-config
VERSION    := 0.1.0

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := all

ifeq ($(V),1)
  Q :=
  say = @:
else
  Q := @
  say = @printf '  %-8s %s\n' $(1) $(2)
endif

# --- What is built from what --------------------------------------------------------------------

BPF_SOURCES    := $(wildcard bpf/*.bpf.c)
BPF_HEADERS    := $(wildcard bpf/*.bpf.h) include/drover/steer_abi.h include/drover/policy.bpf.h
SOURCES        := $(sort $(wildcard userspace/*/*.cc))
UNIT_SOURCES   := $(sort $(wildcard tests/unit/*.cc))
SYSTEM_SOURCES := $(sort $(wildcard tests/system/*.cc))
SERVER_SOURCES := $(sort $(wildcard tests/servers/*.c tests/servers/*.cc))
BENCH_SOURCES  := $(sort $(wildcard tests/bench/*.cc))
POLICY_SOURCES := $(sort $(wildcard tests/policies/*.bpf.c))
FUZZ_SOURCES   := $(sort $(wildcard tests/fuzz/*_fuzz.cc))

# maps first: the linker wants a variable's definition before its declarations. usage is loaded by itself.
BPF_OBJECTS    := $(patsubst %.c,$(BUILD)/%.o,bpf/maps.bpf.c \
                    $(filter-out bpf/maps.bpf.c bpf/usage.bpf.c,$(BPF_SOURCES)))
OBJECTS        := $(SOURCES:%.cc=$(BUILD)/%.o)
MAIN_OBJECT    := $(BUILD)/userspace/main.o
# A build with sanitizers or for coverage may take the tests' own objects from another one: TESTS_BUILD=build.
TESTS_BUILD    ?= $(BUILD)
UNIT_OBJECTS   := $(UNIT_SOURCES:%.cc=$(TESTS_BUILD)/%.o)
TIDIED         := $(patsubst %.cc,$(BUILD)/tidy/%.ok,$(SOURCES) userspace/main.cc)
SYSTEM_OBJECTS := $(SYSTEM_SOURCES:%.cc=$(TESTS_BUILD)/%.o)
SERVERS        := $(addprefix $(BUILD)/servers/,$(notdir $(basename $(SERVER_SOURCES))))
BENCHES        := $(BENCH_SOURCES:tests/bench/%.cc=$(BUILD)/bench/%)
POLICIES       := $(POLICY_SOURCES:tests/policies/%.c=$(BUILD)/policies/%.o)
FUZZERS        := $(FUZZ_SOURCES:tests/fuzz/%_fuzz.cc=$(BUILD)/fuzz/%)
MAN_PAGES      := $(BUILD)/man/drover.8 $(BUILD)/man/drover.toml.5
COMPLETIONS    := $(BUILD)/completion/drover.bash $(BUILD)/completion/drover.zsh
SKELETONS      := $(BUILD)/bpf/drover.skel.h $(BUILD)/bpf/usage.skel.h

PACKAGES := libbpf libelf zlib libsystemd fmt ncursesw libmicrohttpd libcap-ng

# --- Flags --------------------------------------------------------------------------------------

OPTIMIZE  := -O2 -g1
WARNINGS  := -Wall -Wextra -Werror
CPPFLAGS  += -Iuserspace -Iinclude -I$(BUILD) -D_GNU_SOURCE
CXXFLAGS  += -std=c++20 $(OPTIMIZE) $(WARNINGS)
CFLAGS    += -std=gnu11 $(OPTIMIZE) $(WARNINGS)
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v3 $(WARNINGS) -Iinclude -Ibpf \
              -I/usr/include/$(shell $(CC) -print-multiarch 2>/dev/null)
LDLIBS    := $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null)
ifeq ($(SAN),1)
  CXXFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDFLAGS  += -fsanitize=address,undefined
endif
# Clang's, which knows regions within a line. The counters are the file itself, mapped (%c), one for
# all processes of a binary (%m): also what a killed process did is counted.
ifeq ($(COVERAGE),1)
  CXX      := $(CLANGXX)
  OPTIMIZE := -O1 -g1
  COUNTED  := -fprofile-instr-generate=$(abspath $(BUILD))/%c%m.profraw
  CXXFLAGS += $(COUNTED) -fcoverage-mapping -mllvm -runtime-counter-relocation
  LDFLAGS  += $(COUNTED)
endif

# --- The usual targets --------------------------------------------------------------------------

.PHONY: all
all: $(BUILD)/drover $(SERVERS)  ## build drover and the test servers (the default)

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Variables: BUILD=folder SAN=1 (address and UB sanitizers) FUZZ_SECONDS=60 V=1 (show commands)'

.PHONY: unit-test
unit-test: $(BUILD)/unit-tests  ## build and run the unit tests
	$(Q)$(BUILD)/unit-tests

.PHONY: unit-objects
unit-objects: $(UNIT_OBJECTS)

.PHONY: build-tests
build-tests: all $(BUILD)/unit-tests $(BUILD)/system-tests $(BUILD)/bench/load  ## build all tests, run none

.PHONY: test
test: build-tests  ## unit and system tests (as root); scripts/test installs what they need first
	$(Q)scripts/run-tests

.PHONY: vm-test
vm-test: build-tests  ## the system tests on Debian's 6.1 kernel, in a virtual machine
	$(Q)scripts/node-versions
	$(Q)scripts/vm-test

.PHONY: vm-matrix
vm-matrix: build-tests  ## the same on other kernels, cgroups, CPUs …, and with systemd: hours
	$(Q)scripts/node-versions
	$(Q)scripts/vm-matrix

.PHONY: soak
MINUTES ?= 30
soak: build-tests  ## everything at random under load, for MINUTES=30 (as root)
	$(Q)DROVER_SOAK_MINUTES=$(MINUTES) $(BUILD)/system-tests --test-suite=soak --no-intro

.PHONY: bench
bench: all $(BENCHES) $(POLICIES) bench-installed  ## drover beside plain sockets, Node cluster, PM2, HAProxy, nginx: 2½ hours
	$(Q)scripts/bench
	$(Q)scripts/bench-syn

.PHONY: bench-installed
bench-installed:
	$(Q)scripts/deps install test
	$(Q)scripts/node-versions

.PHONY: bench-quick
bench-quick: all $(BUILD)/bench/load bench-installed  ## does every peer of the bench answer? under 2 minutes
	$(Q)scripts/bench --quick

.PHONY: bench-syn
bench-syn: all $(BENCHES) $(POLICIES)  ## what a decision costs, and a SYN flood
	$(Q)scripts/bench-syn

.PHONY: coverage
coverage: build-tests  ## lines that the tests reach, and the failure branches that they do not (scripts/deps install fuzz)
	$(Q)DROVER_BUILD=$(BUILD)/coverage scripts/node-versions
	$(Q)$(MAKE) --no-print-directory COVERAGE=1 BUILD=$(BUILD)/coverage TESTS_BUILD=$(BUILD) build-tests
	$(Q)scripts/coverage $(BUILD)/coverage

.PHONY: fuzz
fuzz: $(FUZZERS:=.run)  ## fuzz the parsers, FUZZ_SECONDS=60 each (scripts/deps install fuzz)

.PHONY: lint
lint: $(TIDIED)  ## format, arrows, scripts, cppcheck, clang-tidy (scripts/deps install lint)
	$(Q)scripts/lint

# One file takes clang-tidy some ten seconds: what has not changed is not looked at again.
$(BUILD)/tidy/%.ok: %.cc .clang-tidy $(BUILD)/%.o
	$(call say,TIDY,$<)
	@mkdir -p $(@D)
	$(Q)clang-tidy --quiet $< -- -std=c++20 $(CPPFLAGS) -DDROVER_VERSION='""' 2>$@.log || \
	    { cat $@.log >&2; exit 1; }
	@touch $@

.PHONY: man
man: $(MAN_PAGES)  ## the man pages drover(8) and drover.toml(5), in build/man

.PHONY: install
install: $(BUILD)/drover $(MAN_PAGES) $(COMPLETIONS)  ## install to $(DESTDIR)$(PREFIX)
	install -D -m 0755 $(BUILD)/drover $(DESTDIR)$(PREFIX)/sbin/drover
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/include/drover include/drover/*
	install -D -m 0644 $(BUILD)/man/drover.8 $(DESTDIR)$(PREFIX)/share/man/man8/drover.8
	install -D -m 0644 $(BUILD)/man/drover.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/drover.toml.5
	install -D -m 0644 $(BUILD)/completion/drover.bash \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/drover
	install -D -m 0644 $(BUILD)/completion/drover.zsh \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_drover
	install -D -m 0644 README.md $(DESTDIR)$(PREFIX)/share/doc/drover/README.md
	install -D -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/drover/copyright

.PHONY: deb
deb: $(BUILD)/deps.ok  ## the Debian package, in build/deb, checked by lintian (scripts/deps install deb)
	$(Q)scripts/make-deb $(VERSION)

.PHONY: clean
clean:  ## remove build/
	$(Q)rm -rf $(BUILD)

# --- Dependencies: checked once, missing ones are named ------------------------------------------

$(BUILD)/deps.ok: scripts/deps
	@mkdir -p $(@D)
	$(Q)scripts/deps build
	@touch $@

# A change of flags rebuilds everything.
FLAGS_NOW := $(CXX) $(CXXFLAGS) $(CPPFLAGS) $(CFLAGS) $(BPF_CFLAGS) $(LDFLAGS)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(FLAGS_NOW))' | cmp -s - $@ || echo '$(subst ','\'',$(FLAGS_NOW))' > $@
.PHONY: FORCE
FORCE:

# A change of version rebuilds what tells it.
$(BUILD)/version.txt: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' > $@
VERSIONED := $(patsubst %.cc,$(BUILD)/%.o,$(shell grep -l DROVER_VERSION userspace/main.cc $(SOURCES) $(SYSTEM_SOURCES)))
$(VERSIONED): CPPFLAGS += -DDROVER_VERSION='"$(VERSION)"'
$(VERSIONED): $(BUILD)/version.txt

# --- BPF: each program's object, linked into one (and usage into another), and its skeleton ------

$(BUILD)/bpf/%.bpf.o: bpf/%.bpf.c $(BPF_HEADERS) $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,BPF,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(BUILD)/bpf/drover.o: $(BPF_OBJECTS)
	$(call say,BPFLINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $^

$(BUILD)/bpf/usage.o: $(BUILD)/bpf/usage.bpf.o
	$(call say,BPFLINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $<

$(SKELETONS): $(BUILD)/bpf/%.skel.h: $(BUILD)/bpf/%.o
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $*_bpf > $@.new
	$(Q){ echo '// NOLINTBEGIN: not ours'; cat $@.new; echo '// NOLINTEND'; } > $@

# --- C++ ----------------------------------------------------------------------------------------

$(BUILD)/%.o: %.cc $(BUILD)/flags | $(SKELETONS)
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -MMD -MP -c $< -o $@

$(UNIT_OBJECTS): CPPFLAGS += -Ibpf

# Tests are compiled for speed of compiling.
$(UNIT_OBJECTS) $(SYSTEM_OBJECTS): OPTIMIZE := -O0 -g1

$(BUILD)/drover: $(MAIN_OBJECT) $(OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS) $^ -o $@ $(LDLIBS)

# --- What drover tells of itself: man pages and completion --------------------------------------

$(MAN_PAGES) $(COMPLETIONS) &: $(BUILD)/drover
	$(call say,DOCS,$(BUILD)/man $(BUILD)/completion)
	@mkdir -p $(BUILD)/man $(BUILD)/completion
	$(Q)$< man 8 > $(BUILD)/man/drover.8
	$(Q)$< man 5 > $(BUILD)/man/drover.toml.5
	$(Q)$< completion bash > $(BUILD)/completion/drover.bash
	$(Q)$< completion zsh > $(BUILD)/completion/drover.zsh

$(BUILD)/unit-tests: $(UNIT_OBJECTS) $(OBJECTS)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS) $^ -o $@ $(LDLIBS)

# Nothing of it is counted; what is, it starts.
$(BUILD)/system-tests: COUNTED :=
$(BUILD)/system-tests: $(SYSTEM_OBJECTS) | $(POLICIES)
	$(call say,LINK,$@)
	$(Q)$(CXX) $(LDFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/bench/%: tests/bench/%.cc $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) $(CXXFLAGS) $(LDFLAGS) -MMD -MP -MF $@.d $< -o $@ -lfmt $(BENCH_LIBS)

# Loads its programs from the file beside it.
$(BUILD)/bench/select_map: BENCH_LIBS := -lbpf
$(BUILD)/bench/select_map: $(BUILD)/bench/select_map.bpf.o

$(BUILD)/bench/%.bpf.o: tests/bench/%.bpf.c $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,BPF,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

# Policies of users' own, for tests: with the command that policy.bpf.h gives to their authors.
$(BUILD)/policies/%.bpf.o: tests/policies/%.bpf.c include/drover/steer_abi.h \
    include/drover/policy.bpf.h $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,BPF,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANG) -O2 -g -target bpf -mcpu=v3 $(WARNINGS) -Iinclude -c $< -o $@

# Small servers for tests, the demo and the bench: static, so that nothing can be preloaded.
$(BUILD)/servers/%: tests/servers/%.c $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -static $< -o $@

$(BUILD)/servers/%: tests/servers/%.cc include/drover/worker.hpp $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,CXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 $(OPTIMIZE) $(WARNINGS) -Iinclude -static $< -o $@

# --- Fuzzing: a target NAME_fuzz.cc goes with the pure source NAME.cc and those named here --------

FUZZ_FLAGS := -std=c++20 -O1 -g $(WARNINGS) -fsanitize=fuzzer,address,undefined \
              -fno-sanitize-recover=all

# What a target needs beside userspace/*/NAME.cc.
FUZZ_WITH_control := $(addprefix userspace/,admin/schema.cc supervisor/types.cc \
    supervisor/config.cc supervisor/config_parse.cc supervisor/config_name.cc base/nearest.cc \
    base/cgroup.cc base/wall_time.cc)

FUZZ_WITH_config_toml := $(addprefix userspace/,supervisor/toml_shield.cc supervisor/config.cc \
    supervisor/config_parse.cc supervisor/config_name.cc base/nearest.cc base/cgroup.cc)

$(BUILD)/fuzz/%: tests/fuzz/%_fuzz.cc $(BUILD)/flags | $(BUILD)/deps.ok
	$(call say,FUZZCXX,$@)
	@mkdir -p $(@D)
	$(Q)$(CLANGXX) $(CPPFLAGS) $(FUZZ_FLAGS) -MMD -MP -MF $@.d \
	    $(wildcard userspace/*/$*.cc) $(FUZZ_WITH_$*) $< -o $@ -lfmt

# On a copy of the seeds: what the fuzzer finds worth keeping is put beside them.
.PHONY: $(FUZZERS:=.run)
$(FUZZERS:=.run): $(BUILD)/fuzz/%.run: $(BUILD)/fuzz/%
	$(call say,FUZZ,'$* for $(FUZZ_SECONDS) s')
	@mkdir -p $<.corpus
	@cp tests/fuzz/corpus/$*/* $<.corpus/
	$(Q)$< -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
	    -artifact_prefix=$<. $<.corpus > $<.log 2>&1 || { tail -n 50 $<.log; exit 1; }
	@grep -h 'number_of_executed_units' $<.log

# The source under test is a dependency, too: -MMD lists the headers alone.
$(foreach fuzzer,$(FUZZERS),$(eval $(fuzzer): $(wildcard userspace/*/$(notdir $(fuzzer)).cc) \
    $(FUZZ_WITH_$(notdir $(fuzzer)))))

-include $(FUZZERS:=.d) $(BENCHES:=.d)
-include $(OBJECTS:.o=.d) $(MAIN_OBJECT:.o=.d) $(UNIT_OBJECTS:.o=.d) $(SYSTEM_OBJECTS:.o=.d)
