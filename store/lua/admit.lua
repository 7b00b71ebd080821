-- ARGV: id, lease_ms, the most running, requests per minute, the most stored bytes (each 0: any number)
-- Takes a place among the running and one request of the rate (GCRA: the whole minute's requests may come at once), or
-- nothing. Returns {refusal, milliseconds until it is worth a retry, remaining requests, milliseconds until the rate is
-- whole again}; refusal is '', 'running', 'rate' or 'bytes'. Run again for the same id it takes nothing more.
local id, lease_ms, max_running = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local per_minute, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', RUNNING, '-inf', now)
trim(now)
local used_until = math.min(math.max(tonumber(redis.call('GET', RATE) or 0), now), now + 60000)  -- if the clock went back

local function answer(refusal, retry_ms)
  local remaining = 0
  if per_minute > 0 then remaining = math.floor((60000 - (used_until - now)) * per_minute / 60000 + 1e-6) end
  return {refusal, retry_ms, remaining, math.ceil(used_until - now)}
end

if redis.call('ZSCORE', RUNNING, id) then return answer('', 0) end
if max_running > 0 and redis.call('ZCARD', RUNNING) >= max_running then return answer('running', 1000) end
if max_bytes > 0 and tonumber(redis.call('HGET', SIZES, 'total') or 0) >= max_bytes then
  local next_expiry = redis.call('ZRANGE', STORED, 0, 0, 'WITHSCORES')[2]
  return answer('bytes', math.max(1000, math.ceil(tonumber(next_expiry or now) - now)))
end
if per_minute > 0 then
  local with_this = used_until + 60000 / per_minute
  if with_this - now > 60000.001 then return answer('rate', math.ceil(with_this - now - 60000)) end
  used_until = with_this
  redis.call('SET', RATE, string.format('%.3f', used_until), 'PX', math.ceil(used_until - now))
end
redis.call('ZADD', RUNNING, now + lease_ms, id)
live_for(RUNNING, lease_ms)
return answer('', 0)
