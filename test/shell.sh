# shellcheck shell=bash
# What test/image/run and test/stock/run share: checks that are counted, and two hosts with real resolvers on one of them. It is sourced by
# bash, as root, on Linux. Everything that it starts and makes is gone when the script ends.
#
# The hosts are network namespaces with a cable between them:
#
#     $pod  192.0.2.1    where CoreDNS runs
#     $lab  192.0.2.53   unbound: serves example.org, and the TXT of big.example.net, 1,800 octets long
#           192.0.2.54   dnsmasq: refuses everything

set -euo pipefail

tmp=$(mktemp -d)
pod=dgship$$-pod lab=dgship$$-lab
passed=0 failed=0
pids=()  # of what was started in the background
undo=()  # functions to call at the end

at_end() {
	local status=$? f pid
	for f in "${undo[@]}"; do "$f" || true; done
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for ns in "$pod" "$lab"; do ip netns del "$ns" 2>/dev/null || true; done
	chmod -R u+w "$tmp" && rm -rf "$tmp"
	if ((status == 0)); then
		((failed == 0)) || status=1
	elif ((failed == 0)); then
		echo "FAIL the script itself (exit status $status)"
	fi
	trap - EXIT
	exit "$status"
}
trap at_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# check NAME COMMAND...: runs a command that holds, or does not. What it prints is shown where it does not.
check() {
	local name=$1
	shift
	if "$@" >"$tmp/check" 2>&1; then
		echo "ok   $name"
		passed=$((passed + 1))
		return
	fi
	echo "FAIL $name"
	sed 's/^/     /' "$tmp/check"
	failed=$((failed + 1))
}

# must NAME COMMAND...: the same for what nothing works without.
must() {
	local before=$failed
	check "$@"
	((failed == before)) || exit 1
}

# is WANT GOT
is() { [[ $1 == "$2" ]] || { printf 'want %s\ngot  %s\n' "$1" "$2"; return 1; }; }

# prints TEXT COMMAND...: it succeeds, and the text is in what it prints.
prints() {
	local out
	out=$("${@:2}" 2>&1) && [[ $out == *"$1"* ]] && return
	printf 'no "%s" in\n%s\n' "$1" "$out"
	return 1
}

# fails TEXT COMMAND...: it does not succeed, and the text is in what it prints.
fails() {
	local out
	if ! out=$("${@:2}" 2>&1) && [[ $out == *"$1"* ]]; then return; fi
	printf 'it succeeds, or does not say "%s":\n%s\n' "$1" "$out"
	return 1
}

# within SECONDS COMMAND...: it succeeds by then.
within() {
	local until=$((SECONDS + $1)) out=
	while ((SECONDS <= until)); do
		out=$("${@:2}" 2>&1) && return
		sleep 0.1
	done
	echo "$out"
	return 1
}

# digs WANT ARGUMENTS...: dig +short, asked from the other host, prints WANT.
digs() {
	local out
	out=$(ip netns exec "$lab" dig +short +time=5 +tries=1 @192.0.2.1 "${@:2}") && is "$1" "$out"
}

# get PATH_AND_PORT, as in :8080/health, from the other host.
get() { ip netns exec "$lab" curl -fsS --noproxy '*' --max-time 5 "http://192.0.2.1$1"; }

hosts() {
	ip netns add "$pod" && ip netns add "$lab" &&
		ip -n "$pod" link add eth0 type veth peer name eth0 netns "$lab" &&
		ip -n "$pod" addr add 192.0.2.1/24 dev eth0 &&
		ip -n "$lab" addr add 192.0.2.53/24 dev eth0 &&
		ip -n "$lab" addr add 192.0.2.54/24 dev eth0 || return
	local ns
	for ns in "$pod" "$lab"; do
		ip -n "$ns" link set lo up && ip -n "$ns" link set eth0 up || return
	done
}

resolvers() {
	local piece
	piece=$(printf 'x%.0s' {1..225})
	cat >"$tmp/unbound.conf" <<-EOF
		server:
		    interface: 192.0.2.53
		    access-control: 0.0.0.0/0 allow
		    username: ""
		    chroot: ""
		    directory: ""
		    pidfile: ""
		    use-syslog: no
		    do-daemonize: no
		    module-config: "iterator"
		    max-udp-size: 1232
		    local-zone: "example.org." redirect
		    local-data: "example.org. 60 IN A 198.51.100.80"
		    local-zone: "example.net." static
		    local-data: 'big.example.net. 60 IN TXT "$piece" "$piece" "$piece" "$piece" "$piece" "$piece" "$piece" "$piece"'
		remote-control:
		    control-enable: no
	EOF
	ip netns exec "$lab" unbound -d -c "$tmp/unbound.conf" >"$tmp/unbound.log" 2>&1 &
	pids+=($!)
	ip netns exec "$lab" dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
		--bind-interfaces --listen-address=192.0.2.54 >"$tmp/dnsmasq.log" 2>&1 &
	pids+=($!)
	within 10 asks_resolver NOERROR 192.0.2.53 && within 10 asks_resolver REFUSED 192.0.2.54
}

asks_resolver() { prints "status: $1" ip netns exec "$pod" dig +time=1 +tries=1 "@$2" www.example.org; }

# names_resolve: thirty names, of which none may be answered by the resolver that refuses.
names_resolve() {
	local i
	for i in {1..30}; do
		digs 198.51.100.80 "n$i.example.org" || return
	done
}

# summary is the last thing a script prints.
summary() { echo "$passed ok, $failed failed"; }
