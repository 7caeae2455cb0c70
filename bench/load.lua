-- The load that wrk makes, and the check of every answer. BENCH_LOAD names a file of Lua data:
-- method, path, requests (each with headers and perhaps a body) and the pattern of a right body.

local load = dofile(os.getenv("BENCH_LOAD"))
local prepared, turn = {}, 0
local threads = {}

wrong, example = 0, ""

function setup(thread)
  table.insert(threads, thread)
end

function init()
  for _, each in ipairs(load.requests) do
    table.insert(prepared, wrk.format(load.method, load.path, each.headers, each.body))
  end
end

function request()
  turn = turn % #prepared + 1
  return prepared[turn]
end

function response(status, headers, body)
  if status ~= 200 or not string.find(body, load.expect) then
    wrong = wrong + 1
    if example == "" then
      example = status .. " " .. string.sub(body, 1, 200)
    end
  end
end

function done(summary, latency)
  local wrong, example = 0, ""
  for _, thread in ipairs(threads) do
    wrong = wrong + thread:get("wrong")
    example = thread:get("example")
  end
  local errors = summary.errors
  io.write(string.format(
    'BENCH {"requests": %d, "microseconds": %d, "wrong": %d, "failed": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.duration, wrong,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
  io.write("EXAMPLE " .. string.gsub(example, "\n", " ") .. "\n")
end
