-- For wrk: POSTs chat completions whose texts differ, from a file of one JSON body a line.
-- wrk ... -s load.lua -- BODIES PAUSE_MS KEY ; PAUSE_MS is the mean pause of a connection, 0 for none.

local bodies, pause, number = {}, 0, 0

function init(args)
  for line in io.lines(args[1]) do
    bodies[#bodies + 1] = line
  end
  pause = tonumber(args[2] or "0")
  wrk.headers["content-type"] = "application/json"
  wrk.headers["authorization"] = "Bearer " .. (args[3] or "none")
  math.randomseed(7)
  number = math.random(#bodies)
end

function request()
  number = number % #bodies + 1
  return wrk.format("POST", "/v1/chat/completions", nil, bodies[number])
end

function delay()
  if pause == 0 then
    return 0
  end
  -- Exponential pauses: arrivals as of many people who do not know of each other.
  return math.floor(-math.log(1 - math.random()) * pause + 0.5)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'JSON {"requests": %d, "seconds": %.6f, "p50": %.6f, "p90": %.6f, "p99": %.6f, "max": %.6f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(90) / 1e6, latency:percentile(99) / 1e6,
    latency.max / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
