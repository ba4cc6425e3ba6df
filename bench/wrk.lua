-- SPDX-License-Identifier: MIT
-- For bench/demo: one line of figures that wrk itself does not print (p99.9), after its own report.
function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format("figures %d %d %.1f %.1f %.1f %d\n", summary.requests, summary.duration,
		latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
		e.connect + e.read + e.write + e.status + e.timeout))
end
