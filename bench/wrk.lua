-- SPDX-License-Identifier: MIT
-- For bench/demo and bench/report: `wrk ... URL -- DEPTH` sends so many requests at once on a connection, and
-- one line of figures that wrk itself does not print (p99.9) comes after its own report.
function init(args)
	local depth = tonumber(args[1]) or 1
	if depth > 1 then
		batch = string.rep(wrk.format(), depth)
	end
end

function request()
	return batch or wrk.format()
end

function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format("figures %d %d %.1f %.1f %.1f %d\n", summary.requests, summary.duration,
		latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
		e.connect + e.read + e.write + e.status + e.timeout))
end
