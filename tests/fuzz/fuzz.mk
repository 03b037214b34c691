# make fuzz: 100,000 handshakes of the simulator, then each target in turn for FUZZ_SECONDS. Needs clang. What is found stays
# in $(BUILD)/fuzz; what is worth keeping goes into tests/fuzz/corpus/NAME, which make test replays.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(filter-out tests/fuzz/replay.c,$(wildcard tests/fuzz/*.c)))

.PHONY: fuzz
fuzz: $(BUILD)/opt/tests/tls/simulate $(patsubst %,$(BUILD)/fuzz/%,$(FUZZ_TARGETS))
	@sh tests/certs.sh $(BUILD)/certs
	KIT_RUNS=100000 PSOCKET_CERTS=$(BUILD)/certs $(BUILD)/opt/tests/tls/simulate
	@for t in $(FUZZ_TARGETS); do mkdir -p $(BUILD)/fuzz/found/$$t && $(BUILD)/fuzz/$$t -max_total_time=$(FUZZ_SECONDS) -max_len=4000 \
	    -artifact_prefix=$(BUILD)/fuzz/$$t- $(BUILD)/fuzz/found/$$t tests/fuzz/corpus/$$t || exit 1; done

$(BUILD)/fuzz/%: tests/fuzz/%.c $(TEST_HDR)
	@mkdir -p $(@D)
	@clang -std=c99 -D_GNU_SOURCE -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $(BEARSSL_CFLAGS) -I. -Itests -o $@ $< $(LIBS) -ldl -lm
