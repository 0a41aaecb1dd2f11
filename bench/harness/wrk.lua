-- Prints one line of JSON when wrk ends; latencies are in milliseconds. wrk itself counts from 400 on as an error.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  other = 0
end

function response(status)
  if status < 200 or status > 299 then
    other = other + 1
  end
end

function done(summary, latency)
  local e, non_2xx = summary.errors, 0
  for _, thread in ipairs(threads) do
    non_2xx = non_2xx + thread:get("other")
  end
  io.write(string.format(
    '{"requests": %d, "non_2xx": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d,'
      .. ' "p50_ms": %.1f, "p99_ms": %.1f, "max_ms": %.1f, "seconds": %.1f}\n',
    summary.requests, non_2xx, e.connect, e.read, e.write, e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    summary.duration / 1000000))
end
