-- Prints one line of JSON when wrk ends; latencies are in milliseconds.
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "non_2xx": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d,'
      .. ' "p50_ms": %.1f, "p99_ms": %.1f, "max_ms": %.1f, "seconds": %.1f}\n',
    summary.requests, e.status, e.connect, e.read, e.write, e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    summary.duration / 1000000))
end
