#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# examples.sh: the examples, driven by clients that nobody here wrote: curl, wrk, redis-cli, redis-benchmark
# and the shell's own sockets; by echoload; and by hostile, which means them ill. On io_uring, then on epoll
# (WEIR_DRIVER set: only there). B is the build directory, FULL=1 runs the long loads, RUN goes in front of the
# servers (RUN='valgrind -q --error-exitcode=9'); with an argument, only the parts named so: echo udp http kv
# proxy fastest copy.
#
# Each line of output is a claim: "ok - ..." or "not ok - ..." and why. Ports are chosen by the kernel.
set -uo pipefail
build=$(realpath "${B:-build}")
work=$(mktemp -d)
passed=0 failed=0 server= behind=
export FULL=${FULL:-0}

# ---- harness ----------------------------------------------------------------------------------------

# A child that a signal meets before it has dropped our traps gets here too, and has nothing to clean up.
finish() {
	[ $BASHPID = $$ ] || return
	[ -z "$server" ] || kill -KILL "$server" 2>/dev/null
	[ -z "$behind" ] || kill -KILL "$behind" 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

claim() { # text, command...: holds when the command succeeds within $patience seconds
	local text="$part on $WEIR_DRIVER: $1" code
	shift
	export -f "${functions[@]}"
	export work address port host server build part
	timeout --foreground "${patience:-60}" bash -c 'set -o pipefail; "$@"' - "$@" >"$work/log" 2>&1
	code=$?
	if [ $code = 0 ] && [ -n "$server" ] && ! kill -0 "$server" 2>/dev/null; then
		code='the server died'
	fi
	if [ "$code" = 0 ]; then
		echo "ok - $text"
		passed=$((passed + 1))
	else
		failure "$text ($code)" "$work/log" "$work/server.log"
	fi
}

failure() { # text, files that tell more
	echo "not ok - $1"
	tail -q -n 20 "${@:2}" | cut -c 1-300 | sed 's/^/#       /'
	failed=$((failed + 1))
}

# Runs the example in the background; sets server, address, host and port.
start() { # example, address, descriptors, second argument
	local tries
	: >"$work/server.log"
	(ulimit -n "${3:-$(ulimit -n)}" && exec ${RUN:-} "$build/examples/$1" "$2" ${4:-}) >"$work/server.log" 2>&1 &
	server=$!
	for ((tries = 0; tries < 1200; tries++)); do
		address=$(sed -n 's/^.*listening on //p' "$work/server.log")
		host=${address%:*} port=${address##*:}
		[ -z "$address" ] || return 0
		kill -0 $server 2>/dev/null || break
		sleep 0.05
	done
	server=
	failure "$part on $WEIR_DRIVER: starts on $2" "$work/server.log"
	return 1
}

ends_well() { # signal, text: the exit code is 0; with a sanitizer that says nothing leaked, too
	local code tries
	kill "-$1" "$server"
	for ((tries = 0; tries < 600; tries++)); do
		kill -0 "$server" 2>/dev/null || break
		sleep 0.05
	done
	kill -KILL "$server" 2>/dev/null
	wait "$server" 2>/dev/null
	code=$?
	server=
	claim "$2: exit code 0" test $code = 0
}

# Both signals in the middle of work, each for a new server.
ends_under_load() { # example, command that loads it for long
	local signal load
	for signal in TERM INT; do
		[ -n "$server" ] || start "$1" 127.0.0.1:0 || return
		export address port
		bash -c 'eval "exec $1"' - "$2" >/dev/null 2>&1 &
		load=$!
		sleep 0.5
		ends_well $signal "SIG$signal under load"
		kill $load 2>/dev/null
		wait $load 2>/dev/null
	done
}

hostile() { "$work/hostile" "$address" "$@"; }

descriptors() { ls "/proc/$server/fd" | wc -l; }

# When every client has gone, no descriptor and no client task is left of them.
all_gone() { # descriptors before, command that prints the number of clients, itself included
	local tries
	for ((tries = 0; tries < 100; tries++)); do
		[ "$(descriptors)" -le "$1" ] && [ "$("${@:2}")" = 1 ] && return
		sleep 0.2
	done
	echo "$(descriptors) descriptors, $1 before; $("${@:2}") clients"
	return 1
}

rss_below() { # MB
	[ "$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$server/status")" -lt "$1" ]
}

# With that many clients that stop inside a request, a command still holds.
while_holding() { # dialect, clients, command...
	local hold tries
	exec {hold}> >(exec "$work/hostile" "$address" hold "$1" "$2" >"$work/hold")
	for ((tries = 0; tries < 300; tries++)); do
		grep -q holding "$work/hold" 2>/dev/null && break
		sleep 0.1
	done
	"${@:3}"
	local code=$?
	exec {hold}>&-
	return $code
}

# The same four for http and for kv.
test_hostility() { # dialect
	claim 'malformed requests, whole, in pieces and byte by byte, get the answer they deserve' hostile corpus "$1"
	local seed=${SEED:-$RANDOM}
	claim "mutated requests, seed $seed: every connection ends" hostile fuzz "$1" "$seed" $((FULL ? 20000 : 2000))
	claim 'a client that sends and reads byte by byte' hostile slow "$1"
	claim '30000 peers that reset' hostile reset "$1" 30000
}

# All of them at once, against 1024 descriptors: each is served in the end. Its own server.
test_flood() { # dialect
	local soft hard
	soft=$(ulimit -Sn) hard=$(ulimit -Hn)
	if [ "$hard" != unlimited ] && [ "$hard" -lt 6000 ]; then
		echo "skipped - $part on $WEIR_DRIVER: 20000 clients need 6000 descriptors a process, not $hard"
		return
	fi
	start "$part" 127.0.0.1:0 1024 || return
	patience=300 claim '20000 clients against 1024 descriptors: who gets in is answered, then it serves again' \
		hostile flood "$1" 20000
	ends_well TERM 'SIGTERM after that'
}

# Sends stdin to the server as it is, then closes that direction's end by ending; prints what comes back.
talk() { # seconds to wait for the rest
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	cat >&3
	timeout "${1:-1}" cat <&3
	exec 3>&-
}

one_byte_at_a_time() { # text; prints what comes back, to its end or so many lines of it
	local text=$1 i
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	for ((i = 0; i < ${#text}; i++)); do
		printf %s "${text:i:1}" >&3
		sleep 0.01
	done
	timeout 20 head -n "${2:-1000}" <&3
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
	ends_under_load echo '"$build/bench/echoload" -c 64 -t 30 "$address"'

	start echo '[::1]:0' && claim 'IPv6' echoes -c 8 -n 2000 && ends_well INT SIGINT
	start echo "unix:$work/socket" && claim 'a Unix socket' echoes -c 8 -n 2000 &&
		ends_well TERM SIGTERM
	start echo 127.0.0.1:0 128 || return
	claim '300 clients against 128 descriptors; then it serves again' more_clients_than_descriptors
	ends_well TERM SIGTERM
}

# ---- udp --------------------------------------------------------------------------------------------

# Each write of the shell's is a datagram, each read takes one.
datagrams_return() { # bytes of each...
	local bytes
	exec 3<>"/dev/udp/$udp_host/$port" || return
	for bytes in "$@"; do
		head -c "$bytes" /dev/urandom >"$work/sent"
		dd if="$work/sent" bs=65536 status=none >&3 || return
		timeout 10 dd bs=65536 count=1 status=none <&3 | cmp - "$work/sent" || return
	done
	exec 3>&-
}

many_senders() { # each with a socket, and so a port, of its own
	local i pids=()
	for i in $(seq 16); do
		(work=$work/sender$i && mkdir "$work" && datagrams_return 1 20 300 1400) &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i" || return
	done
	rm -rf "$work"/sender*
}

test_udp() {
	export udp_host=127.0.0.1
	start udp 127.0.0.1:0 || return
	claim 'datagrams of every size come back as they went' datagrams_return 1 9 1472 4000 65507
	claim '16 senders at once' many_senders
	ends_well TERM SIGTERM
	start udp '[::1]:0' || return
	udp_host=::1
	claim 'IPv6' datagrams_return 1 1452 65507 && ends_well INT SIGINT
	start udp ':0' || return
	claim 'IPv6 at every address' datagrams_return 100
	udp_host=127.0.0.1
	claim 'and IPv4' datagrams_return 100 65507
	ends_well TERM SIGTERM
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
	one_byte_at_a_time $'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' | grep 'Hello, World!'
}

shows_metrics() {
	get "$(url /metrics)" >"$work/metrics" && [ "$(tail -n 1 "$work/metrics")" = '# EOF' ] &&
		grep -q '^weir_serve_accepted_total [1-9]' "$work/metrics" &&
		grep -q '^weir_worker_turns_total{worker="0"} [1-9]' "$work/metrics"
}

clients_of_http() { get "$(url /stats)" | sed -n 's/^open //p'; }

refused_but_read() { # the answer comes although the body is not read to its end
	answers 413 -H 'Expect:' -H 'Transfer-Encoding: chunked' --data-binary @"$work/large" "$(url /echo)"
}

# A request in pieces that stop: 408 and the end. Nothing at all, or nothing after an answer: the end.
stalls() { printf 'POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab' | talk 10 | grep '^HTTP/1.1 408'; }
# After the answer to what is sent (there may be none) the server closes: cat sees the end before the time is up.
closes_when_idle() { # answers, what is sent
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return
	printf "$2" >&3
	timeout 10 cat <&3 >"$work/answers" && [ "$(grep -c '^HTTP/1.1 200' "$work/answers")" = "$1" ]
}

half_open_http() { says_hello && wrk_clean 8; }

wrk_clean() { # connections
	wrk -t 1 -c "$1" -d 2 --timeout 20s -s bench/wrk.lua "$(url /)" | tee "$work/wrk"
	awk '/^figures/ { ok = $2 > 0 && $7 == 0 } END { exit !ok }' "$work/wrk"
}

test_http() {
	start http 127.0.0.1:0 || return
	local before
	claim 'GET /' says_hello
	before=$(descriptors)
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
	claim '/metrics' shows_metrics
	claim 'a chunked body too large: 413 comes through' refused_but_read
	test_hostility http
	claim '100 clients that stop inside a request hold up nobody' while_holding http 100 half_open_http
	local n
	for n in 1 64 1000; do
		claim "wrk with $n connections, no error" wrk_clean $n
	done
	claim 'no client leaves anything behind' all_gone "$before" clients_of_http
	ends_well TERM 'SIGTERM'
	start http 127.0.0.1:0 '' 1 || return
	claim 'a request that stops half-way: 408' stalls
	claim 'a client that says nothing is closed' closes_when_idle 0 ''
	claim 'a client that stays silent after an answer is closed' closes_when_idle 1 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
	ends_well TERM 'SIGTERM after that'
	ends_under_load http 'wrk -t 1 -c 64 -d 30 "http://$address/"'
	test_flood http
}

# ---- kv ---------------------------------------------------------------------------------------------

cli() { redis-cli -p "$port" "$@"; }
gives() { # expected, command...
	local got
	got=$(cli "${@:2}")
	[ "$got" = "$1" ] || { echo "expected '$1', got '$got'"; return 1; }
}

lives() { # seconds, of which some may be over, key
	local got
	got=$(cli TTL "$2")
	[ "$got" -le "$1" ] && [ "$got" -gt $(($1 - 20)) ] || { echo "expected $1 or a little less, got '$got'"; return 1; }
}

session() { # command and answer, one after the other
	gives PONG PING && gives OK SET a 1 && gives 1 GET a && gives 2 INCR a && gives 1 DEL a && gives '' GET a &&
		gives OK MSET x 1 y 2 && gives $'1\n2' MGET x y && gives 2 LPUSH l b a && gives $'a\nb' LRANGE l 0 -1 &&
		gives 2 SADD s p q && gives 2 HSET h f 1 g 2 && gives 1 EXPIRE x 100 && lives 100 x &&
		gives -1 TTL y && gives -2 TTL none
}

resp3() { cli -3 HELLO 3 | grep -q proto && cli -3 PING | grep -q PONG; }

value_of_megabytes() {
	head -c 3000000 /dev/zero | tr '\0' v >"$work/value"
	cli -x SET big <"$work/value" && cli GET big | head -c 3000000 | cmp - "$work/value"
}

benchmark_clean() { # depth
	redis-benchmark -p "$port" -t set,get,incr,lpush,sadd,hset,mset -n $((FULL ? 200000 : 20000)) -c 50 -P "$1" -q | tr '\r' '\n' >"$work/bench"
	! grep -iE 'error|warning|could not' "$work/bench" && [ "$(grep -c 'requests per second' "$work/bench")" = 7 ]
}

default_benchmark() { # all 20 of redis-benchmark's own tests
	redis-benchmark -p "$port" -n $((FULL ? 100000 : 10000)) -r 1000 -q | tr '\r' '\n' >"$work/bench"
	! grep -iE 'error|warning|could not' "$work/bench" && [ "$(grep -c 'requests per second' "$work/bench")" = 20 ]
}

types() {
	gives OK FLUSHALL && gives OK SET k v EX 100 && gives '' SET k w NX && gives v GET k && lives 100 k &&
		gives OK SET k 7 XX && gives -1 TTL k && gives '' SET none 1 XX && gives 8 INCR k && gives 7 DECR k &&
		gives 3 RPUSH l a b c && gives $'b\nc' LRANGE l -2 -1 && gives a LPOP l && gives c RPOP l && gives 1 LLEN l &&
		gives 3 SADD s a b c && gives 2 SREM s a c && gives b SMEMBERS s && gives 1 SCARD s &&
		gives b SPOP s && gives '' SPOP s && gives 1 SADD s b &&
		gives 2 HSET h f 1 g 2 && gives 2 HGET h g && gives 1 HDEL h f && gives $'g\n2' HGETALL h &&
		gives 3 ZADD z 2 b 1 a 3 c && gives 0 ZADD z 9 a && gives $'b\n2' ZPOPMIN z &&
		gives 2 ZCARD z && gives 5 EXISTS k l s h z && gives 5 DBSIZE &&
		gives 5 DEL k l s h z && gives 0 DBSIZE
}

expires() {
	local tries
	gives OK SET short 1 PX 50 && gives OK SET long 1 PX 100000 || return
	for ((tries = 0; tries < 50; tries++)); do
		sleep 0.2
		[ "$(cli DBSIZE)" != 1 ] || break
	done
	gives 1 DBSIZE &&
		gives '' GET short && gives 1 GET long
}

help_starts() { cli COMMAND DOCS && cli COMMAND COUNT | grep -qE '^[0-9]+$' && cli INFO | grep -q redis_version && cli CONFIG GET save; }

# Further away than nanoseconds can count: and the sweeper sleeps meanwhile.
expires_in_the_far_future() {
	gives OK SET far 1 PX 4000000000000000 && gives 1 PEXPIRE far 4400000000000000 || return
	local before after
	before=$(cli INFO stats | tr -d '\r' | sed -n 's/^turns://p')
	sleep 1
	after=$(cli INFO stats | tr -d '\r' | sed -n 's/^turns://p')
	[ $((after - before)) -lt 50 ] || { echo "$((after - before)) turns in a second"; return 1; }
	gives 1 GET far && gives 1 DEL far
}

clients_of_kv() { cli INFO clients | tr -d '\r' | sed -n 's/^connected_clients://p'; }

half_open_kv() { gives PONG PING && benchmark_clean 1 && rss_below 300; }

bad_protocol() { printf '*1\r\n$99999999999\r\n' | talk 5 | grep -q '^-ERR'; }
slow_command() { one_byte_at_a_time $'*1\r\n$4\r\nPING\r\n' 1 | grep '+PONG'; }
pipe_through() { printf 'PING\r\nSET p 1\r\nINCR p\r\nQUIT\r\n' | talk 20 | tr -d '\r' | tr '\n' ' ' | grep -qF '+PONG +OK :2'; }

test_kv() {
	start kv 127.0.0.1:0 || return
	local before
	cli PING >/dev/null
	before=$(descriptors)
	claim 'redis-cli: each command answers as Redis does' session
	claim 'redis-cli: strings, lists, sets, hashes, sorted sets' types
	claim 'keys expire, looked at or not' expires
	claim 'a key that expires in 130,000 years' expires_in_the_far_future
	claim 'what redis-cli asks at its start' help_starts
	claim 'redis-cli -3' resp3
	claim 'a value of 3 MB' value_of_megabytes
	claim 'inline commands, pipelined' pipe_through
	claim 'a length out of range is refused' bad_protocol
	claim 'a byte at a time' slow_command
	claim 'redis-benchmark, its default tests' default_benchmark
	claim 'redis-benchmark -P 1' benchmark_clean 1
	claim 'redis-benchmark -P 16' benchmark_clean 16
	claim 'an unknown command is an error, not the end' eval 'cli NONSENSE | grep -qi "unknown command" && cli PING'
	test_hostility kv
	claim '100 clients that announce 512 MB hold up nobody and cost nothing' while_holding kv 100 half_open_kv
	claim 'no client leaves anything behind' all_gone "$before" clients_of_kv
	ends_under_load kv 'redis-benchmark -p $port -t set,lpush,zadd,hset -r 100000 -n 100000000 -c 50'
	test_flood kv
}

# ---- proxy ------------------------------------------------------------------------------------------

# Another example, and the proxy in front of it, which is the server of what follows.
start_behind() { # example, address
	start "$1" "$2" || return
	behind=$server server=
	start proxy 127.0.0.1:0 '' "$address"
}

nobody_behind() { ! get "$(url /)"; }

test_proxy() {
	[ -x "$build/examples/http" ] || { echo "skipped - proxy: http is not built"; return; }
	start_behind http 127.0.0.1:0 || return
	local before
	claim 'GET /' says_hello
	before=$(descriptors)
	claim 'a body goes there and back' body_returns 100000
	claim 'a chunked body' body_returns 300000 -H 'Transfer-Encoding: chunked'
	claim 'the connection is kept' reuses
	claim 'three pipelined requests' pipelined
	claim 'a client that sends and reads byte by byte' hostile slow http
	claim 'half-closes, cut requests, servers that close: each gets what it would without' hostile corpus http
	local seed=${SEED:-$RANDOM}
	claim "mutated requests, seed $seed: every connection ends" hostile fuzz http "$seed" $((FULL ? 20000 : 500))
	claim '3000 peers that reset' hostile reset http $((FULL ? 30000 : 3000))
	claim '100 clients that stop inside a request hold up nobody' while_holding http 100 half_open_http
	claim 'wrk with 64 connections, no error' wrk_clean 64
	claim 'no client leaves anything behind' all_gone "$before" clients_of_http
	ends_well TERM SIGTERM
	kill -KILL "$behind"
	wait "$behind" 2>/dev/null
	start_behind echo "unix:$work/behind" || return
	claim 'a Unix socket behind it; 64 connections, every byte verified' echoes -c 64 -s 3000 -n 20000
	claim '200 KB messages, 4 in flight' echoes -c 8 -s 200000 -p 4 -n 500
	kill -KILL "$behind"
	wait "$behind" 2>/dev/null
	behind=
	claim 'nobody behind it: the client is closed, the proxy lives' nobody_behind
	ends_well INT 'SIGINT after that'
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
	rm -f "$work/$1.port" # of the run on the other driver
	speaker "$2" "$3" >"$work/$1.port" &
	printf -v "pid_$1" %s $!
	for ((tries = 0; tries < 600; tries++)); do
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
	speak slow 20 tortoise
	speak fast 0 hare
	claim 'the first answer wins' first_is "$address_fast" hare "$address_slow" "$address_fast"
	claim 'a host that refuses loses' first_is "$address_fast" hare 127.0.0.1:1 "$address_fast"
	claim 'nobody answers: an error' eval '! "$build/examples/fastest" 127.0.0.1:1'
	kill "$pid_slow" "$pid_fast"
	wait "$pid_slow" "$pid_fast" 2>/dev/null
}

# ---- copy -------------------------------------------------------------------------------------------

copies() { # FROM TO: and what came is what was sent
	"$build/examples/copy" "$1" "$2" && cmp "$1" "$2"
}
copies_through_pipes() {
	cat "$work/big" | "$build/examples/copy" - - | cmp - "$work/big"
}
copies_redirected() {
	"$build/examples/copy" - - <"$work/big" >"$work/out" && cmp "$work/big" "$work/out" &&
		"$build/examples/copy" - - <"$work/big" >>"$work/out" && cat "$work/big" "$work/big" | cmp - "$work/out"
}
copies_by_fifo() {
	rm -f "$work/fifo" && mkfifo "$work/fifo" && { "$build/examples/copy" "$work/fifo" "$work/out" & } &&
		cat "$work/big" >"$work/fifo" && wait $! && cmp "$work/big" "$work/out"
}
stops_early() { # yes dies of the signal that copy does not get
	yes | "$build/examples/copy" - - | head -c 1000000 | wc -c | grep -qx 1000000
	"$build/examples/copy" /dev/zero - | head -c 10 | wc -c | grep -qx 10
}
ends_on_sigterm() { # while it waits for input that does not come
	local pid hold
	rm -f "$work/fifo" && mkfifo "$work/fifo" && exec {hold}<>"$work/fifo" || return
	"$build/examples/copy" - "$work/out" <&$hold &
	pid=$!
	exec {hold}>&-
	sleep 0.3
	kill -TERM $pid && ! wait $pid
}
refuses_itself() { # by its name, a hard link, a symbolic one, redirected; and it is as it was
	rm -f "$work/self" "$work/hard" "$work/soft" && cp "$work/big" "$work/self" &&
		ln "$work/self" "$work/hard" && ln -s self "$work/soft" || return
	local other
	for other in self hard soft; do
		says 'are the same file' "$work/self" "$work/$other" || return
		says 'are the same file' - "$work/$other" <"$work/self" || return
		says 'are the same file' "$work/$other" - >>"$work/self" || return
	done
	cmp "$work/big" "$work/self"
}
says() { # text, FROM, TO
	! "$build/examples/copy" "$2" "$3" 2>"$work/said" && grep -q "$1" "$work/said"
}

test_copy() {
	server=
	head -c 20000003 /dev/urandom >"$work/big"
	claim 'a file is copied' copies "$work/big" "$work/out"
	claim 'an empty file is copied' copies /dev/null "$work/empty"
	claim 'pipes on both sides' copies_through_pipes
	claim 'files as standard input and output, one to append to' copies_redirected
	claim 'a FIFO by its name' copies_by_fifo
	claim 'head has had enough' stops_early
	claim 'SIGTERM ends it while it waits for input' ends_on_sigterm
	claim 'a full disk is an error' says 'no space left' "$work/big" /dev/full
	claim 'a directory is an error' says 'is a directory' "$work" "$work/out"
	claim 'a file is not copied onto itself, by no name' refuses_itself
	claim '/dev/null is copied to /dev/null' "$build/examples/copy" /dev/null /dev/null
	claim 'a file that is not there is an error' says 'no such file' "$work/none" "$work/out"
}

# ---- main -------------------------------------------------------------------------------------------

mapfile -t functions < <(declare -F | awk '{ print $3 }')
parts=("$@")
[ $# -gt 0 ] || parts=(echo udp http kv proxy fastest copy)
for tool in curl wrk redis-cli redis-benchmark; do
	command -v $tool >/dev/null || { echo "not ok - $tool is missing: make deps"; exit 1; }
done
${CC:-cc} -O2 -o "$work/hostile" tests/hostile.c || exit 1
for WEIR_DRIVER in ${WEIR_DRIVER:-uring epoll}; do
	export WEIR_DRIVER
	for part in "${parts[@]}"; do
		if [ ! -x "$build/examples/$part" ]; then
			echo "skipped - $part: not built"
			continue
		fi
		"test_$part"
	done
done
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
