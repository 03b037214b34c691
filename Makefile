# psocket: run `make help`. Needs GNU make. The library is psocket.h alone; all that is built here is examples,
# Lua modules and tests.

VERSION := $(shell sed -n 's/^\#define PSOCKET_VERSION "\(.*\)"/\1/p' psocket.h)
BUILD   ?= build
PREFIX  ?= /usr/local
JOBS    ?= $(shell nproc 2>/dev/null || echo 2)
ifeq ($(origin CC),default)
CC = gcc
endif
CFLAGS  ?= -O2 -g
LDFLAGS ?=
WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion
SAN     := -O0 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
OPT     := -O2 -g1

# BearSSL: the system's, or a folder with inc/ and build/libbearssl.a, or with include/ and lib/.
ifdef BEARSSL_DIR
BEARSSL_CFLAGS := -isystem $(firstword $(wildcard $(BEARSSL_DIR)/inc $(BEARSSL_DIR)/include))
BEARSSL_LIBS   := $(firstword $(wildcard $(addprefix $(BEARSSL_DIR)/,build/libbearssl.a lib/libbearssl.a)))
BEARSSL_PIC    := $(BEARSSL_LIBS)
else
BEARSSL_CFLAGS :=
BEARSSL_LIBS   := -lbearssl
BEARSSL_PIC     = $(or $(wildcard $(shell $(CC) -print-file-name=libbearssl.a)),-lbearssl)
endif
LIBS = $(BEARSSL_LIBS) -pthread

# Lua: each runtime whose headers are installed, and the one in LUA_DIR.
find_lua_inc   = $(patsubst %/lua.h,%,$(firstword $(wildcard $(foreach n,$(1),/usr/include/$(n)/lua.h /usr/local/include/$(n)/lua.h))))
LUA_INC_5.1   := $(call find_lua_inc,lua5.1 lua51)
LUA_INC_5.2   := $(call find_lua_inc,lua5.2 lua52)
LUA_INC_5.3   := $(call find_lua_inc,lua5.3 lua53)
LUA_INC_5.4   := $(call find_lua_inc,lua5.4 lua54)
LUA_INC_5.5   := $(call find_lua_inc,lua5.5 lua55)
LUA_INC_jit   := $(call find_lua_inc,luajit-2.1)
LUA_RUN_5.1   := lua5.1
LUA_RUN_5.2   := lua5.2
LUA_RUN_5.3   := lua5.3
LUA_RUN_5.4   := lua5.4
LUA_RUN_5.5   := lua5.5
LUA_RUN_jit   := luajit
ifdef LUA_DIR
LUA_DIR_INC   := $(patsubst %/lua.h,%,$(firstword $(wildcard $(addsuffix /lua.h,$(LUA_DIR)/include $(LUA_DIR)/src $(LUA_DIR)))))
ifeq ($(LUA_DIR_INC),)
$(error LUA_DIR=$(LUA_DIR) has no lua.h in include/, src/ or itself)
endif
LUA_DIR_V     := $(if $(wildcard $(LUA_DIR_INC)/luajit.h),jit,$(if $(shell grep -s PLUTO_VERSION $(LUA_DIR_INC)/lua.h),pluto,$(shell n=$$(echo '@ LUA_VERSION_NUM' | \
                   $(CC) -E -I$(LUA_DIR_INC) -include lua.h - | sed -n 's/^@ *//p'); echo $$(($$n / 100)).$$(($$n % 100)))))
LUA_INC_$(LUA_DIR_V) := $(LUA_DIR_INC)
LUA_RUN_$(LUA_DIR_V) := $(firstword $(wildcard $(addprefix $(LUA_DIR)/,bin/lua src/lua lua bin/luajit src/luajit src/pluto)))
endif
LUAS := $(foreach v,5.1 5.2 5.3 5.4 5.5 jit pluto,$(if $(LUA_INC_$(v)),$(v)))
C_LUAS := $(filter-out pluto,$(LUAS)) # Pluto's headers are C++; tests/pluto tests it

EXAMPLES    := $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))
LUA_MODULES := $(patsubst %,$(BUILD)/lua/%/psocket.so,$(LUAS))

# Tests, all found by wildcard. Run: tests/AREA/*.c, tests/fuzz/*.c (replayed over tests/fuzz/corpus/NAME/), tests/*/*.sh
# and tests/lua/*.lua. Only built, for scripts: tests/peers/*.c, tests/interop/*.c.
C_TESTS  := $(wildcard $(foreach d,unit api tls x509 fault regress,tests/$(d)/*.c)) \
            $(filter-out tests/fuzz/replay.c,$(wildcard tests/fuzz/*.c))
C_TOOLS  := $(wildcard tests/peers/*.c tests/interop/*.c)
TEST_HDR := psocket.h $(wildcard tests/*.h tests/*/*.h)
CONFIGS  := san opt
TEST_PROGRAMS := $(foreach c,$(CONFIGS),$(patsubst %.c,$(BUILD)/$(c)/%,$(C_TESTS) $(C_TOOLS)) \
                   $(patsubst examples/%.c,$(BUILD)/$(c)/%,$(wildcard examples/*.c)) \
                   $(patsubst %,$(BUILD)/$(c)/lua/%/psocket.so,$(C_LUAS)))

.DELETE_ON_ERROR:
.PHONY: all demo test install install-lua uninstall rockspec rock bearssl clean help programs test-programs

all:
	@sh tests/deps.sh build
	@+$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) programs

programs: $(EXAMPLES) $(LUA_MODULES)
	@echo "built: $(EXAMPLES) $(LUA_MODULES)"

demo:
	@sh tests/deps.sh demo
	@+$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) run-demo

test:
	@sh tests/deps.sh test
	@+MAKE="$(MAKE) --no-print-directory" BUILD="$(BUILD)" JOBS="$(JOBS)" CC="$(CC)" sh tests/run.sh

test-programs: $(TEST_PROGRAMS)

# What tests/run.sh and make demo ask for: a make of its own, which sees what tests/deps.sh has just installed.
.PHONY: list-tests run-demo
DEMO_LUA = $(firstword $(foreach v,5.4 jit 5.3 5.5 5.2 5.1,$(if $(filter $(v),$(C_LUAS)),$(if $(shell command -v $(LUA_RUN_$(v))),$(v)))))
run-demo: $(BUILD)/https_get $(if $(DEMO_LUA),$(BUILD)/lua/$(DEMO_LUA)/psocket.so)
	@echo
	@BUILD="$(BUILD)" LUAS="$(DEMO_LUA)=$(LUA_RUN_$(DEMO_LUA))" sh tests/demo.sh

list-tests:
	@printf '%s\n' $(patsubst %,c=%,$(C_TESTS)) $(foreach v,$(C_LUAS),lua=$(v)=$(LUA_RUN_$(v)))

# What lies where after an installation. Lua 5.1 and LuaJIT share their folders: 5.1's module serves both.
INC_DIR   := $(PREFIX)/include
PC_DIR    := $(PREFIX)/lib/pkgconfig
LSP_DIR   := $(PREFIX)/share/psocket/lua
lua_folder = $(patsubst jit,5.1,$(1))
INSTALL_LUAS := $(filter-out pluto $(if $(LUA_INC_5.1),jit),$(LUAS))
LUA_SHARED   := http websocket luasocket
BEARSSL_L    := $(if $(BEARSSL_DIR),-L$(abspath $(dir $(firstword $(BEARSSL_LIBS))))) -lbearssl

# PREFIX stands in quotes in recipes, and in psocket.pc.
q := '
good_prefix = $(if $(filter /%,$(firstword $(PREFIX))),,$(error PREFIX=$(PREFIX) is no absolute path))$(foreach c,$q " $$ `,$(if \
                $(findstring $c,$(PREFIX)),$(error PREFIX=$(PREFIX) has one of $q " $$ ` in it)))

install:
	@$(good_prefix):
	install -d "$(DESTDIR)$(INC_DIR)" "$(DESTDIR)$(PC_DIR)"
	install -m 644 psocket.h "$(DESTDIR)$(INC_DIR)/psocket.h"
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' \
	    '# A program with PSOCKET_NO_TLS: pkg-config --define-variable=tls= --libs psocket' 'tls=$(strip $(BEARSSL_L))' '' \
	    'Name: psocket' 'Description: TCP, UDP and TLS sockets in one header' 'Version: $(VERSION)' \
	    'Cflags: -I"$${includedir}"' 'Libs: $${tls} -pthread' 'Libs.private: $${tls}' > "$(DESTDIR)$(PC_DIR)/psocket.pc"
	@chmod 644 "$(DESTDIR)$(PC_DIR)/psocket.pc"
	@echo "installed psocket.h and psocket.pc under $(DESTDIR)$(PREFIX)"

install-lua: need-lua $(patsubst %,$(BUILD)/lua/%/psocket.so,$(INSTALL_LUAS))
	@$(good_prefix)set -e; for v in $(INSTALL_LUAS); do \
	    case $$v in jit) d=5.1 ;; *) d=$$v ;; esac; \
	    lib="$(DESTDIR)$(PREFIX)/lib/lua/$$d" share="$(DESTDIR)$(PREFIX)/share/lua/$$d/psocket"; \
	    install -d "$$lib" "$$share"; \
	    install -m 755 "$(BUILD)/lua/$$v/psocket.so" "$$lib/psocket.so"; \
	    for m in $(LUA_SHARED); do install -m 644 examples/$$m.lua "$$share/$$m.lua"; done; \
	    echo "installed psocket.so, and psocket/ with $(LUA_SHARED), for Lua $$d under $(DESTDIR)$(PREFIX)"; \
	done
	install -d "$(DESTDIR)$(LSP_DIR)"
	install -m 644 examples/annotations/psocket.lua "$(DESTDIR)$(LSP_DIR)/psocket.lua"

uninstall:
	@$(good_prefix):
# the system's own folders stay, empty or not
	rm -f "$(DESTDIR)$(INC_DIR)/psocket.h" "$(DESTDIR)$(PC_DIR)/psocket.pc" "$(DESTDIR)$(LSP_DIR)/psocket.lua"
	@for d in 5.1 5.2 5.3 5.4 5.5; do \
	    rm -f "$(DESTDIR)$(PREFIX)/lib/lua/$$d/psocket.so"; \
	    for m in $(LUA_SHARED); do rm -f "$(DESTDIR)$(PREFIX)/share/lua/$$d/psocket/$$m.lua"; done; \
	    for f in share/lua/$$d/psocket share/lua/$$d lib/lua/$$d; do rmdir "$(DESTDIR)$(PREFIX)/$$f" 2>/dev/null || :; done; \
	done
	@case "$(DESTDIR)$(PREFIX)" in /usr | /usr/local) exit 0 ;; esac; for f in "$(LSP_DIR)" "$(PREFIX)/share/psocket" "$(PREFIX)/share/lua" "$(PREFIX)/share" "$(PREFIX)/lib/lua" "$(PC_DIR)" "$(PREFIX)/lib" \
	    "$(INC_DIR)" "$(PREFIX)"; do rmdir "$(DESTDIR)$$f" 2>/dev/null || :; done
	@echo "removed psocket from $(DESTDIR)$(PREFIX)"

.PHONY: need-lua
need-lua:
	@$(if $(INSTALL_LUAS),:,sh tests/deps.sh build; echo "psocket: no Lua with headers was found" >&2; exit 1)

# A rockspec and the archive it names: luarocks make build/psocket-*.rockspec, or luarocks install. LuaRocks calls `rock`.
ROCK := psocket-$(VERSION)
rockspec:
	@mkdir -p "$(BUILD)"
	tar czf "$(BUILD)/$(ROCK).tar.gz" --transform 's,^,$(ROCK)/,' psocket.h Makefile README.md LICENSE examples tests/deps.sh
	@printf '%s\n' 'rockspec_format = "3.0"' 'package = "psocket"' 'version = "$(VERSION)-1"' \
	    'source = { url = "file://$(abspath $(BUILD))/$(ROCK).tar.gz", dir = "$(ROCK)" }' \
	    'description = { summary = "TCP, UDP and TLS sockets that yield in coroutines", license = "MIT" }' \
	    'dependencies = { "lua >= 5.1, < 5.6" }' 'external_dependencies = { BEARSSL = { header = "bearssl.h" } }' \
	    'build = {' '  type = "make", build_target = "rock", install_pass = false,' \
	    '  build_variables = { CC = "$$(CC)", CFLAGS = "$$(CFLAGS)", LIBFLAG = "$$(LIBFLAG)", LUA_INCDIR = "$$(LUA_INCDIR)", BEARSSL_INCDIR = "$$(BEARSSL_INCDIR)" },' \
	    '  install = {' '    lib = { psocket = "build/rock/psocket.so" },' \
	    '    lua = { $(foreach m,$(LUA_SHARED),["psocket.$(m)"] = "examples/$(m).lua",) },' '  },' '}' \
	    > "$(BUILD)/$(ROCK)-1.rockspec"
	@echo "wrote $(BUILD)/$(ROCK)-1.rockspec"

rock: $(BUILD)/lua.map
	@mkdir -p build/rock
	$(CC) $(CFLAGS) $(if $(filter -fPIC,$(CFLAGS)),,-fPIC) -I$(LUA_INCDIR) -I$(BEARSSL_INCDIR) -DPSOCKET_IMPLEMENTATION -DPSOCKET_LUA \
	    -x c psocket.h -x none $(LIBFLAG) -o build/rock/psocket.so $(LUA_LINK)

# BearSSL from the source folder BEARSSL_DIR for the target CROSS, into a folder that serves as BEARSSL_DIR afterwards.
BEARSSL_FLAGS ?= -O2 -fPIC
BEARSSL_OUT = $(abspath $(BUILD))/bearssl$(addprefix -,$(patsubst %-,%,$(CROSS)))
bearssl:
	@test -f "$(BEARSSL_DIR)/src/inner.h" || { echo "make bearssl needs BEARSSL_DIR=, a folder with BearSSL's source (https://bearssl.org, or apt-get source bearssl)" >&2; exit 1; }
	@command -v $(CROSS)gcc >/dev/null || { echo "make bearssl needs $(CROSS)gcc; on Debian: apt-get install $(if $(CROSS),gcc-$(patsubst x86_64-w64-mingw32,mingw-w64-x86-64-win32,$(patsubst i686-w64-mingw32,mingw-w64-i686-win32,$(patsubst %-,%,$(CROSS)))),gcc)" >&2; exit 1; }
	@mkdir -p "$(BEARSSL_OUT)/build"
	cp -r "$(BEARSSL_DIR)/inc" "$(BEARSSL_OUT)/"
	@$(MAKE) -s -C "$(BEARSSL_DIR)" lib BUILD="$(BEARSSL_OUT)/build" CC=$(CROSS)gcc AR=$(CROSS)ar LD=$(CROSS)gcc CFLAGS="$(BEARSSL_FLAGS)"
	@echo "now: make BEARSSL_DIR=$(BEARSSL_OUT)"

clean:
	rm -rf "$(BUILD)"

help:
	@echo 'make            build the examples and the Lua modules into $(BUILD)/'
	@echo 'make demo       show it at work: an HTTPS server in Lua, a client in C, a CA made on the spot'
	@echo 'make test       run every test: under ASan and UBSan, then optimised, then the build variants'
	@echo 'make bench      speed against bare epoll, luv, cqueues, LuaSocket, OpenSSL, BearSSL (B=name: one row); bench-tls, bench-idle'
	@echo 'make bench-memory, make size: memory per connection, text by feature, beside the same peers'
	@echo 'make complexity lines, functions and their complexity by section of psocket.h, and the limits that it keeps'
	@echo 'make fuzz       100,000 simulated handshakes, then libFuzzer on each target of tests/fuzz (FUZZ_SECONDS=60 each)'
	@echo 'make install    copy psocket.h and psocket.pc under PREFIX ($(PREFIX)); DESTDIR is respected'
	@echo 'make install-lua  the Lua modules for the runtimes found, psocket/http.lua and its like, annotations for editors'
	@echo 'make uninstall  remove what these two installed'
	@echo 'make rockspec   write $(BUILD)/$(ROCK)-1.rockspec for luarocks make'
	@echo 'make bearssl    BearSSL from the source folder BEARSSL_DIR, for CROSS=x86_64-w64-mingw32- and the like'
	@echo 'make clean      remove $(BUILD)/'
	@echo 'make help       this list'
	@echo
	@echo 'BEARSSL_DIR=    a BearSSL of your own: inc/ and build/libbearssl.a, or include/ and lib/'
	@echo 'LUA_DIR=        one more Lua (or another one of its version), or Pluto: lua.h in include/ or src/'
	@echo 'CC= CXX= CFLAGS= LDFLAGS= JOBS= as usual. On Debian, make demo and make test install what is missing.'

# --- examples -----------------------------------------------------------------------------------------------------
$(BUILD)/%: examples/%.c psocket.h
	@mkdir -p $(@D)
	@echo "  CC $@"
	@$(CC) -std=c99 $(WARN) $(CFLAGS) $(BEARSSL_CFLAGS) -I. -o $@ $< $(LDFLAGS) $(LIBS)

# --- Lua modules: one symbol goes out; helper threads may outlive lua_close, so they are never unloaded -------------
LUA_LINK = -shared -Wl,-z,nodelete -Wl,--version-script=$(BUILD)/lua.map $(LDFLAGS) $(BEARSSL_PIC) -pthread

$(BUILD)/lua.map:
	@mkdir -p $(@D)
	@echo '{ global: luaopen_psocket; local: *; };' > $@

define lua_rules
$(BUILD)/lua/$(1)/psocket.so: psocket.h $(BUILD)/lua.map
	@mkdir -p $$(@D)
	@echo "  CC $$@"
	@$$(CC) -std=c99 $$(WARN) $$(CFLAGS) -fPIC $$(BEARSSL_CFLAGS) -I$$(LUA_INC_$(1)) -DPSOCKET_IMPLEMENTATION -DPSOCKET_LUA \
	    -x c psocket.h -x none -o $$@ $$(LUA_LINK)
$(BUILD)/san/lua/$(1)/psocket.so: psocket.h $(BUILD)/lua.map
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $$(SAN) -fPIC $$(BEARSSL_CFLAGS) -I$$(LUA_INC_$(1)) -DPSOCKET_IMPLEMENTATION -DPSOCKET_LUA \
	    -x c psocket.h -x none -o $$@ $$(LUA_LINK)
$(BUILD)/opt/lua/$(1)/psocket.so: psocket.h $(BUILD)/lua.map
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $$(OPT) -fPIC $$(BEARSSL_CFLAGS) -I$$(LUA_INC_$(1)) -DPSOCKET_IMPLEMENTATION -DPSOCKET_LUA \
	    -x c psocket.h -x none -o $$@ $$(LUA_LINK)
endef
$(foreach v,$(C_LUAS),$(eval $(call lua_rules,$(v))))

$(BUILD)/lua/pluto/psocket.so: psocket.h $(BUILD)/lua.map
	@mkdir -p $(@D)
	@echo "  CXX $@"
	@$(CXX) -std=c++17 $(WARN) $(CFLAGS) -fPIC $(BEARSSL_CFLAGS) -isystem $(LUA_INC_pluto) -DPSOCKET_IMPLEMENTATION -DPSOCKET_LUA \
	    -x c++ psocket.h -x none -o $@ $(LUA_LINK)

# --- tests: twice, for san and for opt. The implementation and the fuzz replayer sit in archives, so that a test which
# includes the implementation itself, or has a main of its own, does not get a second one --------------------------
define test_rules
$(BUILD)/$(1)/libpsocket.a: psocket.h tests/invariants.h
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) $$(BEARSSL_CFLAGS) -DPSOCKET_IMPLEMENTATION $(if $(filter san,$(1)),-DPSOCKET_CHECK='"tests/invariants.h"') -x c psocket.h -c -o $$(@D)/psocket.o
	@rm -f $$@ && ar rc $$@ $$(@D)/psocket.o
$(BUILD)/$(1)/libreplay.a: tests/fuzz/replay.c
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) -c -o $$(@D)/replay.o $$<
	@rm -f $$@ && ar rc $$@ $$(@D)/replay.o
$(BUILD)/$(1)/tests/fuzz/%: tests/fuzz/%.c $$(TEST_HDR) $(BUILD)/$(1)/libpsocket.a $(BUILD)/$(1)/libreplay.a
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) -D_GNU_SOURCE $$(BEARSSL_CFLAGS) -I. -Itests -o $$@ $$< $(BUILD)/$(1)/libreplay.a \
	    $(BUILD)/$(1)/libpsocket.a $$(LIBS) -ldl -lm
$(BUILD)/$(1)/tests/%: tests/%.c $$(TEST_HDR) $(BUILD)/$(1)/libpsocket.a
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) -D_GNU_SOURCE $$(BEARSSL_CFLAGS) -I. -Itests -o $$@ $$< $(BUILD)/$(1)/libpsocket.a $$(LIBS) -ldl -lm
$(BUILD)/$(1)/%: examples/%.c psocket.h
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) $$(BEARSSL_CFLAGS) -I. -o $$@ $$< $$(LIBS)
endef
$(eval $(call test_rules,san,$(SAN)))
$(eval $(call test_rules,opt,$(OPT)))

.PHONY: complexity
complexity:
	@sh tests/complexity.sh

include $(wildcard tests/bench/bench.mk tests/fuzz/fuzz.mk) # not in the archive of make rockspec
