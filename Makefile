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
OPT     := -O2 -g

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
LUA_DIR_V     := $(if $(wildcard $(LUA_DIR_INC)/luajit.h),jit,$(shell n=$$(echo '@ LUA_VERSION_NUM' | \
                   $(CC) -E -I$(LUA_DIR_INC) -include lua.h - | sed -n 's/^@ *//p'); echo $$(($$n / 100)).$$(($$n % 100))))
LUA_INC_$(LUA_DIR_V) := $(LUA_DIR_INC)
LUA_RUN_$(LUA_DIR_V) := $(firstword $(wildcard $(addprefix $(LUA_DIR)/,bin/lua src/lua lua bin/luajit src/luajit)))
endif
LUAS := $(foreach v,5.1 5.2 5.3 5.4 5.5 jit,$(if $(LUA_INC_$(v)),$(v)))

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
                   $(patsubst %,$(BUILD)/$(c)/lua/%/psocket.so,$(LUAS)))

.DELETE_ON_ERROR:
.PHONY: all demo test install clean help programs test-programs

all:
	@sh tests/deps.sh build
	@+$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) programs

programs: $(EXAMPLES) $(LUA_MODULES)
	@echo "built: $(EXAMPLES) $(LUA_MODULES)"

demo:
	@sh tests/deps.sh demo
	@+$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) programs
	@echo
	@+$(MAKE) --no-print-directory run-demo

test:
	@sh tests/deps.sh test
	@+MAKE="$(MAKE) --no-print-directory" BUILD="$(BUILD)" JOBS="$(JOBS)" CC="$(CC)" sh tests/run.sh

test-programs: $(TEST_PROGRAMS)

# What tests/run.sh and make demo ask for: a make of its own, which sees what tests/deps.sh has just installed.
.PHONY: list-tests run-demo
run-demo:
	@BUILD="$(BUILD)" LUAS="$(foreach v,$(LUAS),$(v)=$(LUA_RUN_$(v)))" sh tests/demo.sh

list-tests:
	@printf '%s\n' $(patsubst %,c=%,$(C_TESTS)) $(foreach v,$(LUAS),lua=$(v)=$(LUA_RUN_$(v)))

install:
	install -d "$(DESTDIR)$(PREFIX)/include" "$(DESTDIR)$(PREFIX)/lib/pkgconfig"
	install -m 644 psocket.h "$(DESTDIR)$(PREFIX)/include/psocket.h"
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' '' 'Name: psocket' \
	    'Description: TCP, UDP and TLS sockets in one header' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -lbearssl -pthread' > "$(DESTDIR)$(PREFIX)/lib/pkgconfig/psocket.pc"
	@chmod 644 "$(DESTDIR)$(PREFIX)/lib/pkgconfig/psocket.pc"
	@echo "installed psocket.h and psocket.pc under $(DESTDIR)$(PREFIX)"

clean:
	rm -rf "$(BUILD)"

help:
	@echo 'make            build the examples and the Lua modules into $(BUILD)/'
	@echo 'make demo       show it at work: an HTTPS server in Lua, a client in C, a CA made on the spot'
	@echo 'make test       run every test: under ASan and UBSan, then optimised, then the build variants'
	@echo 'make bench      speed against bare epoll, luv, cqueues, LuaSocket, OpenSSL, BearSSL (B=name: one row); bench-tls, bench-idle'
	@echo 'make bench-memory, make size: memory per connection, text by feature, beside the same peers'
	@echo 'make complexity lines, functions and their complexity by section of psocket.h, and the limits that it keeps'
	@echo 'make install    copy psocket.h and psocket.pc under PREFIX ($(PREFIX)); DESTDIR is respected'
	@echo 'make clean      remove $(BUILD)/'
	@echo 'make help       this list'
	@echo
	@echo 'BEARSSL_DIR=    a BearSSL of your own: inc/ and build/libbearssl.a, or include/ and lib/'
	@echo 'LUA_DIR=        one more Lua (or another one of its version): lua.h in include/ or src/'
	@echo 'CC= CFLAGS= LDFLAGS= JOBS= as usual. On Debian, make, make demo and make test install what is missing.'

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
$(foreach v,$(LUAS),$(eval $(call lua_rules,$(v))))

# --- tests: twice, for san and for opt. The implementation and the fuzz replayer sit in archives, so that a test which
# includes the implementation itself, or has a main of its own, does not get a second one --------------------------
define test_rules
$(BUILD)/$(1)/libpsocket.a: psocket.h
	@mkdir -p $$(@D)
	@$$(CC) -std=c99 $$(WARN) -Werror $(2) $$(BEARSSL_CFLAGS) -DPSOCKET_IMPLEMENTATION -x c psocket.h -c -o $$(@D)/psocket.o
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

include tests/bench/bench.mk
