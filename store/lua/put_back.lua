-- ARGV: entry, fence, delay in milliseconds, channel that wakes takers
-- Gives a lease back: the entry is ready at its old place, at once or after the delay. Does nothing if the lease is
-- lost or was given back before.
local entry, delay_ms = ARGV[1], tonumber(ARGV[3])
if fence_of(entry) ~= ARGV[2] then return 0 end
redis.call('HDEL', FENCES, entry)
if delay_ms > 0 then
  redis.call('ZADD', LEASES, now_ms() + delay_ms, entry)
else
  redis.call('ZREM', LEASES, entry)
  make_ready(entry)
  redis.call('PUBLISH', ARGV[4], '')
end
return 1
