-- What wrk measured, as one line of JSON. Latencies in milliseconds.
done = function(summary, latency)
  local errors = summary.errors
  local at = function(percentile) return latency:percentile(percentile) / 1000 end
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"errors":%d,"p50":%.4f,"p90":%.4f,"p99":%.4f,"p99.9":%.4f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    at(50), at(90), at(99), at(99.9)))
end
