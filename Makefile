# Every command installs nothing on its own; `make tools` says in one line what is missing.
CARGO ?= cargo
PYTHON ?= python3
VENV := target/venv
SECONDS_EACH ?= 60
# Most scenarios wait for sockets: two for each core.
TEST_THREADS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.PHONY: help demo simulate test lint bench quality fuzz drills drills-sip interop interop-chromium interop-firefox interop-callers interop-sip interop-agents interop-s3 screenshots fmt tools

help: ## what can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: tools ## one simulated WhatsApp call end to end, on this machine
	@$(CARGO) build --profile demo --locked
	@./target/demo/patchcord demo

simulate: tools ## a WhatsApp phone as a web page, at http://127.0.0.1:8090
	@$(CARGO) build --profile demo --locked
	@./target/demo/patchcord simulate

test: tools ## all tests
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --locked --test-threads $(TEST_THREADS) && $(CARGO) test --workspace --locked --doc; \
	else \
		$(CARGO) test --workspace --locked; \
	fi

lint: tools ## format, clippy, docs, licences and sources of dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	@./tests/tools/deny.sh

interop: tools ## foreign programs: aiortc calls through the real webhook, schemathesis tries the API, a pywa bot signals, Chromium opens the pages
	@./tests/interop/run.sh
	@./tests/interop/contract/run.sh
	@./tests/interop/pywa/run.sh
	@./tests/interop/chromium/run.sh

interop-chromium: tools ## the pages in Chromium, Chromium as the caller and as an agent, and the console's figures
	@./tests/interop/chromium/run.sh --all

interop-firefox: tools ## the console in Firefox, which answers a Chromium
	@./tests/interop/firefox/run.sh

screenshots: tools ## every screen, light and dark, wide and narrow, into target/screenshots
	@./tests/interop/chromium/screenshots.sh

interop-callers: tools ## callers on other WebRTC stacks: libwebrtc in Node, werift and GStreamer
	@./tests/interop/callers/run.sh

interop-sip: tools ## foreign phones: SIPp, baresip and Kamailio, from Debian's packages, and JsSIP in Chromium
	@./tests/interop/sip/run.sh

interop-agents: tools ## clients of other platforms are the agents: Pipecat, OpenAI's Agents SDK, jambonz, Plivo, Vonage's, Asterisk's, Twilio's SDKs; vendors' types check models
	@./tests/interop/agents/run.sh
	@./tests/interop/twilio/run.sh

interop-s3: tools ## recordings are uploaded to a foreign S3 server
	@./tests/interop/s3/run.sh

bench: tools ## every performance figure beside its floor, measured in one run
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench calls

quality: tools ## speech quality of real calls, with and without loss, beside the codec alone
	@./tests/quality/run.sh

fuzz: tools ## parsers of foreign bytes, fed with any bytes; SECONDS_EACH=60
	@SECONDS_EACH=$(SECONDS_EACH) ./fuzz/run.sh

drills: tools ## faults on purpose: kill -9, no descriptors, full disk, freezes, overload; as root, some minutes
	@./tests/tools/drills.sh

drills-sip: tools ## hostile SIP beside a call, and phones whose clocks are wrong; DRILL_SECONDS=600 for each
	@./tests/tools/drills.sh sip

fmt: ## format the code
	$(CARGO) fmt --all

tools: # what a build needs beside Rust
	@missing=""; \
	command -v $(CARGO) >/dev/null || { echo "Rust is missing: see https://rustup.rs, then run this again" >&2; exit 1; }; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ -z "$$missing" ] || ./tests/tools/install.sh $$missing
