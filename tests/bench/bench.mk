# bench.mk: the benchmarks. Included by the Makefile. Tables go to standard output and to $(BUILD)/bench/NAME.md.

BENCH         := $(BUILD)/bench
BENCH_CFLAGS  := -std=c99 $(WARN) -O2 -g -D_GNU_SOURCE
BENCH_SERVERS := $(patsubst %,$(BENCH)/%,epoll psocket openssl bearssl)
BENCH_ALL     := $(BENCH_SERVERS) $(BENCH)/bench $(BENCH)/primitives $(BENCH)/malloced.so \
                 $(patsubst %,$(BUILD)/lua/%/psocket.so,$(filter 5.4 jit,$(LUAS)))
BENCH_RUN      = BENCH_BIN=$(BENCH) BENCH_LUA=$(BUILD)/lua BENCH_CERTS=$(BUILD)/certs BENCH_CC="$(CC) -O2" $(BENCH)/bench
B             ?=

.PHONY: bench bench-tls bench-idle bench-memory size bench-programs bench-ready run-bench run-bench-tls run-bench-idle run-bench-memory

# As with the tests: a make of its own sees what has just been installed. A pipe to tee would hide the status.
bench bench-tls bench-idle bench-memory:
	@sh tests/deps.sh demo
	@sh tests/bench/deps.sh bench
	@+$(MAKE) --no-print-directory -s $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) bench-programs
	@sh tests/certs.sh $(BUILD)/certs >/dev/null
	@+$(MAKE) --no-print-directory -s -j1 run-$@

size:
	@sh tests/deps.sh build
	@sh tests/bench/deps.sh size
	@mkdir -p $(BENCH)
	@CC="$(CC)" BEARSSL_CFLAGS="$(BEARSSL_CFLAGS)" BEARSSL_LIBS="$(BEARSSL_LIBS)" LUA_INC="$(firstword $(foreach v,5.4 jit $(LUAS),$(LUA_INC_$(v))))" \
	    sh tests/bench/size.sh $(BENCH) > $(BENCH)/size.md; s=$$?; cat $(BENCH)/size.md; exit $$s

bench-programs: $(BENCH_ALL)

run-bench:
	@$(BENCH_RUN) speed $(B) > $(BENCH)/speed.md; s=$$?; cat $(BENCH)/speed.md; exit $$s
run-bench-tls:
	@$(BENCH_RUN) tls > $(BENCH)/tls.md; s=$$?; cat $(BENCH)/tls.md; exit $$s
run-bench-idle:
	@$(BENCH_RUN) idle > $(BENCH)/idle.md; s=$$?; cat $(BENCH)/idle.md; exit $$s
run-bench-memory:
	@$(BENCH_RUN) memory > $(BENCH)/memory.md && CC="$(CC)" BEARSSL_CFLAGS="$(BEARSSL_CFLAGS)" BEARSSL_LIBS="$(BEARSSL_LIBS)" \
	    sh tests/bench/memory.sh $(BENCH) $(BUILD)/certs >> $(BENCH)/memory.md; s=$$?; cat $(BENCH)/memory.md; exit $$s

$(BENCH)/psocket: tests/bench/psocket.c tests/bench/server.h psocket.h
	@mkdir -p $(@D)
	@echo "  CC $@"
	@$(CC) $(BENCH_CFLAGS) $(BEARSSL_CFLAGS) -I. -o $@ $< $(LIBS)
$(BENCH)/epoll: tests/bench/epoll.c tests/bench/server.h
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) -o $@ $<
$(BENCH)/openssl: tests/bench/openssl.c tests/bench/server.h
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) -o $@ $< -lssl -lcrypto
$(BENCH)/bearssl: tests/bench/bearssl.c tests/bench/server.h
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) $(BEARSSL_CFLAGS) -o $@ $< $(LIBS)
$(BENCH)/primitives: tests/bench/primitives.c
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) $(BEARSSL_CFLAGS) -o $@ $< $(LIBS)
$(BENCH)/malloced.so: tests/bench/malloced.c
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) -shared -fPIC -o $@ $<
$(BENCH)/bench: tests/bench/bench.c tests/bench/load.h
	@mkdir -p $(@D)
	@$(CC) $(BENCH_CFLAGS) -o $@ $< -lssl -lcrypto -lm
