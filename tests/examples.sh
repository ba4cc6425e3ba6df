#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# examples.sh: the examples, driven by clients that nobody here wrote: curl, wrk, redis-cli, redis-benchmark
# and the shell's own sockets; and by echoload. Once on io_uring and once on epoll. B is the build directory;
# with an argument, only the parts named so: echo http kv fastest.
#
# Each line of output is a claim that held, or FAILED and why. Servers listen on ports the kernel chooses.
set -uo pipefail
build=$(realpath "${B:-build}")
work=$(mktemp -d)
passed=0 failed=0 server=

# ---- harness ----------------------------------------------------------------------------------------

# A child that a signal meets before it has dropped our traps gets here too, and has nothing to clean up.
finish() {
	[ $BASHPID = $$ ] || return
	[ -z "$server" ] || kill -KILL "$server" 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

claim() { # text, command...: holds when the command succeeds within a minute
	local text="$part on $WEIR_DRIVER: $1" code
	shift
	export -f "${functions[@]}"
	export work address port host server build
	timeout --foreground 60 bash -c 'set -o pipefail; "$@"' - "$@" >"$work/log" 2>&1
	code=$?
	if [ $code = 0 ] && [ -n "$server" ] && ! kill -0 "$server" 2>/dev/null; then
		code='the server died'
	fi
	if [ "$code" = 0 ]; then
		echo "ok      $text"
		passed=$((passed + 1))
	else
		echo "FAILED  $text ($code)"
		tail -n 20 "$work/log" "$work/server.log" | cut -c 1-300 | sed 's/^/        /'
		failed=$((failed + 1))
	fi
}

# Runs the example in the background; sets server, address, host and port.
start() { # example, address
	local tries
	: >"$work/server.log"
	"$build/examples/$1" "$2" >"$work/server.log" 2>&1 &
	server=$!
	for ((tries = 0; tries < 200; tries++)); do
		address=$(sed -n 's/^.*listening on //p' "$work/server.log")
		host=${address%:*} port=${address##*:}
		[ -z "$address" ] || return 0
		kill -0 $server 2>/dev/null || break
		sleep 0.05
	done
	server=
	echo "FAILED  $part on $WEIR_DRIVER: starts on $2"
	sed 's/^/        /' "$work/server.log"
	failed=$((failed + 1))
	return 1
}

ends_well() { # signal: the exit code is 0, soon
	local code tries
	kill "-$1" "$server"
	for ((tries = 0; tries < 400; tries++)); do
		kill -0 "$server" 2>/dev/null || break
		sleep 0.05
	done
	kill -KILL "$server" 2>/dev/null
	wait "$server" 2>/dev/null
	code=$?
	server=
	claim "$2" test $code = 0
}

# Sends stdin to the server as it is, then closes that direction's end by ending; prints what comes back.
talk() { # seconds to wait for the rest
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	cat >&3
	timeout "${1:-1}" cat <&3
	exec 3>&-
}

one_byte_at_a_time() {
	local text=$1 i
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	for ((i = 0; i < ${#text}; i++)); do
		printf %s "${text:i:1}" >&3
		sleep 0.01
	done
	timeout 1 cat <&3
	exec 3>&-
}

# ---- echo -------------------------------------------------------------------------------------------

echoes() { "$build/bench/echoload" --verify "$@" "$address"; }

echo_file() { # bytes, through the shell
	head -c "$1" /dev/urandom >"$work/sent"
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	cat "$work/sent" >&3 &
	head -c "$1" <&3 | cmp - "$work/sent"
}

half_open() { # the server must not wait for those who do not speak
	local i
	for i in 1 2 3 4 5 6 7 8; do
		exec {fd}<>"/dev/tcp/127.0.0.1/$port" || return
	done
	echoes -c 8 -n 2000
}

more_clients_than_descriptors() {
	"$build/bench/echoload" --idle -c 300 -t 1 --reset "$address"
	echoes -c 8 -n 2000
}

test_echo() {
	start echo 127.0.0.1:0 || return
	claim '5 MB come back as they went' echo_file 5000000
	claim '64 connections, 64 bytes, every byte verified' echoes -c 64 -s 64 -t 1
	claim 'one byte at a time' echoes -c 16 -s 1 -n 20000
	claim '200 KB messages, 4 in flight' echoes -c 8 -s 200000 -p 4 -n 2000
	claim '1000 connections' echoes -c 1000 -s 100 -n 50000
	claim 'connect, echo, close, 5000 times' echoes --churn -c 32 -n 5000 --reset
	claim 'peers that reset' echoes -c 100 -n 5000 --reset
	claim 'silent clients hold up nobody' half_open
	"$build/bench/echoload" -c 64 -t 30 "$address" >/dev/null 2>&1 &
	local load=$!
	sleep 0.5
	ends_well TERM 'SIGTERM under load: exit code 0'
	kill $load 2>/dev/null
	wait $load 2>/dev/null

	start echo '[::1]:0' && claim 'IPv6' echoes -c 8 -n 2000 && ends_well INT 'SIGINT: exit code 0'
	start echo "unix:$work/socket" && claim 'a Unix socket' echoes -c 8 -n 2000 &&
		ends_well TERM 'SIGTERM: exit code 0'
	local limit
	limit=$(ulimit -Sn)
	ulimit -Sn 128
	start echo 127.0.0.1:0
	ulimit -Sn "$limit"
	[ -z "$server" ] || claim '300 clients against 128 descriptors; then it serves again' more_clients_than_descriptors
	[ -z "$server" ] || ends_well TERM 'SIGTERM: exit code 0'
}

# ---- http -------------------------------------------------------------------------------------------

get() { curl -sS --max-time 20 "$@"; }
url() { echo "http://$address$1"; }
answers() { [ "$(get -o /dev/null -w '%{http_code}' "${@:2}")" = "$1" ]; }
says_hello() { get "$(url /)" | grep -q 'Hello, World!'; }

body_returns() { # bytes, curl options
	head -c "$1" /dev/urandom >"$work/body"
	get --data-binary @"$work/body" "${@:2}" "$(url /echo)" | cmp - "$work/body"
}

reuses() { [ "$(get -o /dev/null -o /dev/null -w '%{num_connects}' "$(url /)" "$(url /)")" = 10 ]; }

pipelined() { # three requests in one write, the last one closes
	printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' |
		talk 5 >"$work/answers"
	[ "$(grep -c '^HTTP/1.1 200' "$work/answers")" = 3 ]
}

refuses() { # status, what is sent
	printf "$2" | talk 5 | head -n 1 | grep "^HTTP/1.1 $1"
}

slow_request() {
	one_byte_at_a_time $'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' | grep -q 'Hello, World!'
}

wrk_clean() { # connections
	wrk -t 1 -c "$1" -d 2 -s bench/wrk.lua "$(url /)" | tee "$work/wrk"
	awk '/^figures/ { ok = $2 > 0 && $7 == 0 } END { exit !ok }' "$work/wrk"
}

test_http() {
	start http 127.0.0.1:0 || return
	claim 'GET /' says_hello
	claim 'HEAD /' answers 200 -I "$(url /)"
	claim 'a path that is not there: 404' answers 404 "$(url /nothing)"
	claim 'a body comes back' body_returns 100000
	claim 'a chunked body comes back' body_returns 300000 -H 'Transfer-Encoding: chunked'
	claim 'Expect: 100-continue' body_returns 5000 -H 'Expect: 100-continue'
	claim 'the connection is kept' reuses
	claim 'three pipelined requests' pipelined
	claim 'a request that is none: 400' refuses 400 'nonsense\r\n\r\n'
	claim 'no Host in HTTP/1.1: 400' refuses 400 'GET / HTTP/1.1\r\n\r\n'
	claim 'headers without end: 431' answers 431 -H "X-Long: $(head -c 60000 /dev/zero | tr '\0' x)" "$(url /)"
	head -c 3000000 /dev/zero >"$work/large"
	claim 'a body too large: 413' answers 413 -H 'Expect:' --data-binary @"$work/large" "$(url /echo)"
	claim 'a byte at a time' slow_request
	claim '/stats' answers 200 "$(url /stats)"
	local n
	for n in 1 64 1000; do
		claim "wrk with $n connections, no error" wrk_clean $n
	done
	wrk -t 1 -c 64 -d 20 "$(url /)" >/dev/null 2>&1 &
	local load=$!
	sleep 0.5
	ends_well TERM 'SIGTERM under load: exit code 0'
	kill $load 2>/dev/null
	wait $load 2>/dev/null
}

# ---- kv ---------------------------------------------------------------------------------------------

cli() { redis-cli -p "$port" "$@"; }
gives() { # expected, command...
	local got
	got=$(cli "${@:2}")
	[ "$got" = "$1" ] || { echo "expected '$1', got '$got'"; return 1; }
}

session() { # command and answer, one after the other
	gives PONG PING && gives OK SET a 1 && gives 1 GET a && gives 2 INCR a && gives 1 DEL a && gives '' GET a &&
		gives OK MSET x 1 y 2 && gives $'1\n2' MGET x y && gives 2 LPUSH l b a && gives $'a\nb' LRANGE l 0 -1 &&
		gives 2 SADD s p q && gives 2 HSET h f 1 g 2 && gives 1 EXPIRE x 100 && gives 100 TTL x &&
		gives -1 TTL y && gives -2 TTL none
}

resp3() { cli -3 HELLO 3 | grep -q proto && cli -3 PING | grep -q PONG; }

value_of_megabytes() {
	head -c 3000000 /dev/zero | tr '\0' v >"$work/value"
	cli -x SET big <"$work/value" && cli GET big | head -c 3000000 | cmp - "$work/value"
}

benchmark_clean() { # depth
	redis-benchmark -p "$port" -t set,get,incr,lpush,sadd,hset,mset -n 20000 -c 50 -P "$1" -q | tr '\r' '\n' >"$work/bench"
	! grep -iE 'error|warning|could not' "$work/bench" && [ "$(grep -c 'requests per second' "$work/bench")" = 7 ]
}

bad_protocol() { printf '*1\r\n$99999999999\r\n' | talk 5 | grep -q '^-ERR'; }
slow_command() { one_byte_at_a_time $'*1\r\n$4\r\nPING\r\n' | grep -q '+PONG'; }
pipe_through() { printf 'PING\r\nSET p 1\r\nINCR p\r\n' | talk 1 | tr -d '\r' | tr '\n' ' ' | grep -qF '+PONG +OK :2'; }

test_kv() {
	start kv 127.0.0.1:0 || return
	claim 'redis-cli: each command answers as Redis does' session
	claim 'redis-cli -3' resp3
	claim 'a value of 3 MB' value_of_megabytes
	claim 'inline commands, pipelined' pipe_through
	claim 'a length out of range is refused' bad_protocol
	claim 'a byte at a time' slow_command
	claim 'redis-benchmark -P 1' benchmark_clean 1
	claim 'redis-benchmark -P 16' benchmark_clean 16
	claim 'an unknown command is an error, not the end' eval 'cli NONSENSE | grep -qi "unknown command" && cli PING'
	redis-benchmark -p "$port" -t set -n 100000000 -c 50 >/dev/null 2>&1 &
	local load=$!
	sleep 0.5
	ends_well TERM 'SIGTERM under load: exit code 0'
	kill $load 2>/dev/null
	wait $load 2>/dev/null
}

# ---- fastest ----------------------------------------------------------------------------------------

# A host that says one word to each client after so many seconds. Prints its port.
speaker() { # seconds, word
	exec perl -MIO::Socket::INET -e '$| = 1; $l = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1") or die;
		print $l->sockport, "\n"; while ($c = $l->accept) { select(undef, undef, undef, $ARGV[0]);
		print $c "$ARGV[1]\n"; close $c }' "$1" "$2"
}

speak() { # name, seconds, word: sets pid_NAME and address_NAME
	local tries
	speaker "$2" "$3" >"$work/$1.port" &
	printf -v "pid_$1" %s $!
	for ((tries = 0; tries < 100; tries++)); do
		[ ! -s "$work/$1.port" ] || break
		sleep 0.05
	done
	printf -v "address_$1" %s "127.0.0.1:$(cat "$work/$1.port")"
}

first_is() { # address, word, hosts...
	"$build/examples/fastest" "${@:3}" | grep -x "$1: $2"
}

test_fastest() {
	server=
	speak slow 0.3 tortoise
	speak fast 0 hare
	claim 'the first answer wins' first_is "$address_fast" hare "$address_slow" "$address_fast"
	claim 'a host that refuses loses' first_is "$address_fast" hare 127.0.0.1:1 "$address_fast"
	claim 'nobody answers: an error' eval '! "$build/examples/fastest" 127.0.0.1:1'
	kill "$pid_slow" "$pid_fast"
	wait "$pid_slow" "$pid_fast" 2>/dev/null
}

# ---- main -------------------------------------------------------------------------------------------

mapfile -t functions < <(declare -F | awk '{ print $3 }')
parts=("$@")
[ $# -gt 0 ] || parts=(echo http kv fastest)
for WEIR_DRIVER in uring epoll; do
	export WEIR_DRIVER
	for part in "${parts[@]}"; do
		if [ ! -x "$build/examples/$part" ]; then
			echo "skipped $part: not built"
			continue
		fi
		"test_$part"
	done
done
echo "examples: $passed claims hold, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
